// Length-31 Gold sequences, from c_init alone.
//
// A thread makes 16 words. The first register is the same for all and read from a table; the
// second's state at the thread's first bit is linear in c_init, so a table of 31 x 31 bits for
// every multiple of 512 bits gives it by 31 parities. From a state, 28 bits follow at a time.
// Spec: TS 38.211 5.2.1
#pragma once

const int THREADS = 128;
const int WORDS = 16;  // of a thread

// Makes the words of one chunk, lowest bit first.
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

// c_init of a DM-RS symbol. Spec: TS 38.211 6.4.1.1.1.1, 7.4.1.1.1
__device__ __forceinline__ unsigned pilot_c_init(unsigned slot_number, unsigned symbol, unsigned n_id,
                                                 unsigned n_scid) {
  const unsigned twice = 2u * n_id;
  return ((((14u * slot_number + symbol + 1u) * (twice + 1u)) << 17) + twice + n_scid) & 0x7fffffffu;
}
