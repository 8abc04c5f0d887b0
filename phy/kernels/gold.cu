// The pseudo-random sequences of a slot, for DM-RS and scrambling, of the UEs that are received.
// Spec: TS 38.211 5.2.1, 6.3.1.1, 6.4.1.1.1.1
#include "front_end.cuh"
#include "gold.cuh"

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
    const unsigned c_init =
        pilot_c_init(ue.slot_number, symbol, ue.pilot_n_id, unsigned(ue.pilot_n_scid));
    generate(pilots + ue.pilot_offset + row * ue.pilot_stride + chunk * WORDS, jumps,
             first_register, n_chunks, c_init, ue.pilot_first_chunk + chunk);
    return;
  }
  const int chunk = thread - n_pilot_chunks;
  if (chunk * WORDS * 32 >= ue.n_coded_bits) return;
  generate(scrambling + ue.scrambling_offset + chunk * WORDS, jumps, first_register, n_chunks,
           unsigned(ue.scrambling_c_init), chunk);
}
