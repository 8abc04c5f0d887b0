// The pseudo-random sequences of a slot, for DM-RS and scrambling: length-31 Gold sequences, from
// c_init alone.
//
// A thread makes 16 words. The first register is the same for all and read from a table; the
// second's state at the thread's first bit is linear in c_init, so a table of 31 x 31 bits for
// every multiple of 512 bits gives it by 31 parities. From a state, 28 bits follow at a time.
// Spec: TS 38.211 5.2.1, 6.3.1.1, 6.4.1.1.1.1
#include "front_end.cuh"

const int THREADS = 128;
const int WORDS = 16;  // of a thread

__device__ __forceinline__ void generate(unsigned* to, const unsigned* jumps,
                                         const unsigned* first_register, int n_chunks,
                                         unsigned c_init, int chunk) {
  unsigned state = 0;
#pragma unroll
  for (int bit = 0; bit < 31; ++bit)
    state |= (__popc(jumps[bit * n_chunks + chunk] & c_init) & 1u) << bit;
  unsigned word[WORDS];
#pragma unroll
  for (int i = 0; i < WORDS; ++i) {
    // x(n + 31) = x(n) ^ x(n + 1) ^ x(n + 2) ^ x(n + 3), for as many n as there are bits known.
    const unsigned next = (state ^ state >> 1 ^ state >> 2 ^ state >> 3) & 0x0fffffffu;
    unsigned long long known = state | (unsigned long long)next << 31;
    const unsigned long long later = known ^ known >> 1 ^ known >> 2 ^ known >> 3;
    known |= (later >> 28 & 15) << 59;
    word[i] = unsigned(known) ^ first_register[chunk * WORDS + i];
    state = unsigned(known >> 32) & 0x7fffffffu;
  }
#pragma unroll
  for (int i = 0; i < WORDS; i += 4)
    *reinterpret_cast<uint4*>(to + i) = make_uint4(word[i], word[i + 1], word[i + 2], word[i + 3]);
}

// grid: (threads for the largest UE, UEs); block: 128.
//   jumps           uint32[31][chunk]: which bits of c_init a bit of the second register's state is
//                   the sum of, where a chunk begins
//   first_register  uint32[chunk][16]
//   pilots          out: packed bits of each UE's DM-RS symbols, from a multiple of 512 bits on
//   scrambling      out: packed scrambling sequences
extern "C" __global__ void __launch_bounds__(THREADS)
generate_sequences(const Ue* ues, const unsigned* jumps, const unsigned* first_register,
                   unsigned* pilots, unsigned* scrambling, int n_chunks) {
  const Ue& ue = ues[blockIdx.y];
  if (ue.n_subcarriers == 0) return;
  const int thread = blockIdx.x * THREADS + threadIdx.x;
  const int of_symbol = ue.pilot_stride / WORDS;
  const int n_pilot_chunks = ue.n_positions * ue.dmrs_length * of_symbol;
  if (thread < n_pilot_chunks) {
    const int row = thread / of_symbol, chunk = thread % of_symbol;
    const unsigned symbol = ue.dmrs_symbol[row / ue.dmrs_length] + row % ue.dmrs_length;
    const unsigned twice = 2u * ue.pilot_n_id;
    const unsigned c_init = (((14u * ue.slot_number + symbol + 1u) * (twice + 1u)) << 17) + twice +
                            unsigned(ue.pilot_n_scid);
    generate(pilots + ue.pilot_offset + row * ue.pilot_stride + chunk * WORDS, jumps,
             first_register, n_chunks, c_init & 0x7fffffffu, ue.pilot_first_chunk + chunk);
    return;
  }
  const int chunk = thread - n_pilot_chunks;
  if (chunk * WORDS * 32 >= ue.n_coded_bits) return;
  generate(scrambling + ue.scrambling_offset + chunk * WORDS, jumps, first_register, n_chunks,
           unsigned(ue.scrambling_c_init), chunk);
}
