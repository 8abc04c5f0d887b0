import sys, time
from dataclasses import asdict
from phy.gpu.bench_slots import *
t=time.time()
for n, sms in ((20,None),(40,None)):
    r = time_uplink(UplinkRun(PEAK_PUSCH, n, sms, n_slots=1000))
    d = asdict(r); d.pop("run")
    print(n, sms, f"{time.time()-t:.0f} s", flush=True)
    for k, v in d.items(): print("   ", k, {a: round(b,1) for a,b in v.items()} if isinstance(v, dict) else v, flush=True)
