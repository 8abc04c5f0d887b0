// Packed bits, the first in the highest place of a word, and remainders of polynomials made of them.
#pragma once

// 32 bits from any bit on.
__device__ __forceinline__ unsigned bits_at(const unsigned* words, unsigned bit) {
    const unsigned word = bit / 32;
    return __funnelshift_l(words[word + 1], words[word], bit % 32);
}

// The 32 bits from a byte on, of bytes that begin at a whole word.
__device__ __forceinline__ unsigned from_byte(const unsigned* words, unsigned byte) {
    const unsigned first = __byte_perm(words[byte / 4], 0, 0x0123);
    const unsigned second = __byte_perm(words[byte / 4 + 1], 0, 0x0123);
    return __funnelshift_l(second, first, byte % 4 * 8);
}

// The upper n bits, n at most 32.
__device__ __forceinline__ unsigned upper(unsigned word, int n) {
    return n >= 32 ? word : n <= 0 ? 0 : word >> (32 - n) << (32 - n);
}

// The sum of the warp's remainders of n bits of a code block, the first of them being followed by
// n_behind others.
template <class Word>
__device__ __forceinline__ unsigned remainder(
    Word word_at, int n_bits, int n_behind, const unsigned* power) {
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    unsigned sum = 0;
    // Loads that hang on no bit, eight words of them under way together.
#pragma unroll 8
    for (int word = threadIdx.x / 32; word * 32 < n_bits; word += n_warps) {
        const int bit = word * 32 + lane;
        const unsigned one = word_at(word) >> (31 - lane) & 1;
        const unsigned of_bit = power[bit < n_bits ? n_behind - bit : 0];
        if (bit < n_bits && one) sum ^= of_bit;
    }
    return __reduce_xor_sync(~0u, sum);
}

// Puts n bits, the lowest of `value`, from a bit on, where there are zeros.
__device__ __forceinline__ void put(unsigned* words, int bit, unsigned value, int n) {
    value <<= 32 - n;
    words[bit / 32] |= value >> bit % 32;
    if (bit % 32 + n > 32) words[bit / 32 + 1] |= value << (32 - bit % 32);
}

// remainder * weight modulo the generator of CRC24A, by the lanes of a warp together.
__device__ __forceinline__ unsigned times_weight(unsigned remainder, unsigned weight) {
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < lane && i < 24; ++i)
        weight = weight & 0x800000u ? (weight << 1 & 0xffffffu) ^ 0x864cfbu : weight << 1;
    return __reduce_xor_sync(~0u, lane < 24 && remainder >> lane & 1 ? weight : 0);
}
