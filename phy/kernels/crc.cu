// The CRCs of transport blocks to be sent; CRC checks of decoded code blocks and transport blocks, and
// the transport blocks put together.
//
// Spec: TS 38.212 5.1, 5.2.2, 6.2.1
//
// One thread block for each code block. A remainder is the sum of the remainders of its bits' powers
// of x, so every lane takes one bit of a word and adds its power from a table. The remainder of a
// transport block's CRC is the sum over its code blocks of their own remainders times the power of x
// that stands for the bits behind; the code block that comes last to the sum draws the conclusion.

#include "bits.cuh"
#include "transport.cuh"

constexpr int N_THREADS = 128;
constexpr int N_WARPS = N_THREADS / 32;

// The state of a transport block while its code blocks come in; all zero between launches.
struct Verdict {
    unsigned remainder;
    int n_wrong;
    int n_arrived;
    int unused;
};

// power_24b, power_tb: uint32[8448], x^i modulo the generators; power_16 likewise for CRC16.
// tb_weight: uint32[cb], x^n modulo CRC24A's generator for the n bits behind the code block's.
// Writes tb: uint8, packed; block_ok: uint8[cb]; crc_ok: uint8[tb].
extern "C" __global__ void __launch_bounds__(N_THREADS)
    check_and_join(const unsigned* bits, const unsigned char* parity_ok, const Reception* receptions,
                   const int* tb_of_block, const unsigned* tb_weight, const unsigned* powers,
                   const int* control, Verdict* verdicts, unsigned char* tb_bytes,
                   unsigned char* block_ok, unsigned char* crc_ok) {
    __shared__ unsigned found[N_WARPS][3];
    const int block = blockIdx.x;
    if (block >= control[0] || tb_of_block[block] < 0) return;
    const int number = tb_of_block[block];
    const Reception tb = receptions[number];
    const int index = block - tb.first_block;
    const unsigned* words = bits + tb.bits_at + static_cast<long long>(index) * tb.bits_stride;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned* power_24b = powers;
    const unsigned* power_tb = powers + (tb.tb_crc_bits == 24 ? 1 : 2) * N_POWERS;

    unsigned of_block = 0, of_tb = 0, spoken = 0;
#pragma unroll 8
    for (int word = warp; word * 32 < tb.block_bits; word += N_WARPS) {
        const int bit = word * 32 + lane;
        const bool is_payload = bit < tb.payload_bits;
        // Loads that hang on no bit, so that several words' are under way together.
        const unsigned value = words[word];
        const unsigned in_block = power_24b[bit < tb.block_bits ? tb.block_bits - 1 - bit : 0];
        const unsigned in_tb = power_tb[is_payload ? tb.payload_bits - 1 - bit : 0];
        const bool one = bit < tb.block_bits && value >> (31 - lane) & 1;
        spoken |= one;
        if (one) of_block ^= in_block;
        if (one && is_payload) of_tb ^= in_tb;
    }
    of_block = __reduce_xor_sync(~0u, of_block);
    of_tb = __reduce_xor_sync(~0u, of_tb);
    spoken = __ballot_sync(~0u, spoken);
    if (lane == 0) {
        found[warp][0] = of_block;
        found[warp][1] = of_tb;
        found[warp][2] = spoken;
    }

    const int behind = tb.tb_bits - index * tb.payload_bits;  // bits from this block on, without CRC
    const int n_bits = behind < tb.payload_bits ? behind : tb.payload_bits;
    unsigned char* target = tb_bytes + tb.tb_at + index * (tb.payload_bits / 8);
    for (int byte = threadIdx.x; byte * 8 < n_bits; byte += N_THREADS) {
        const unsigned value = words[byte / 4] >> (24 - 8 * (byte % 4)) & 255;
        const int n_missing = (byte + 1) * 8 - n_bits;
        target[byte] = n_missing > 0 ? value >> n_missing << n_missing : value;
    }

    __syncthreads();
    if (warp != 0) return;
    of_block = of_tb = spoken = 0;
    for (int i = 0; i < N_WARPS; ++i) {
        of_block ^= found[i][0];
        of_tb ^= found[i][1];
        spoken |= found[i][2];
    }
    // Silence decodes to zeros, which pass every CRC: such a block must be consistent as well.
    const bool right = (tb.n_blocks == 1 || of_block == 0) && (spoken || parity_ok[block]);
    if (tb.n_blocks > 1) of_tb = times_weight(of_tb, tb_weight[block]);
    if (lane != 0) return;
    block_ok[block] = tb.n_blocks == 1 ? right && of_tb == 0 : right;
    Verdict* verdict = verdicts + number;
    atomicXor(&verdict->remainder, of_tb);
    if (!right) atomicAdd(&verdict->n_wrong, 1);
    __threadfence();
    if (atomicAdd(&verdict->n_arrived, 1) + 1 < tb.n_blocks) return;
    __threadfence();
    crc_ok[number] = atomicXor(&verdict->remainder, 0) == 0 && atomicAdd(&verdict->n_wrong, 0) == 0;
    verdict->remainder = 0;
    verdict->n_wrong = 0;
    verdict->n_arrived = 0;
}

// The state of a transport block while its code blocks come in; all zero between launches.
struct Sum {
    unsigned remainder;
    int n_arrived;
};

// tbs: packed transport blocks, readable 4 bytes beyond the last. blocks of all sizes: code block b
// of the launch belongs to tb_of_block[b]. tb_weight: uint32[cb], x^n modulo CRC24A's generator, for
// the n bits of the transport block behind the code block's. Writes crc: uint32[tb].
extern "C" __global__ void __launch_bounds__(N_THREADS)
    tb_crc(const unsigned* tbs, const Transmission* transmissions, const int* tb_of_block,
           const int* index_of_block, const unsigned* tb_weight, const unsigned* powers,
           const int* control, Sum* sums, unsigned* crc) {
    __shared__ unsigned found[N_WARPS];
    const int block = blockIdx.x;
    if (block >= control[0] || tb_of_block[block] < 0) return;
    const int number = tb_of_block[block], index = index_of_block[block];
    const Transmission tb = transmissions[number];
    const int n_bits = own_bits(tb, index);
    const unsigned first_byte = tb.tb_at + index * (tb.payload_bits / 8);
    const unsigned* power = powers + (tb.tb_crc_bits == 24 ? 1 : 2) * N_POWERS;
    const auto word_at = [&](int word) { return from_byte(tbs, first_byte + 4 * word); };
    const unsigned sum = remainder(word_at, n_bits, n_bits - 1 + tb.tb_crc_bits, power);
    if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    unsigned total = 0;
    for (int warp = 0; warp < N_WARPS; ++warp) total ^= found[warp];
    if (tb.n_blocks > 1) total = times_weight(total, tb_weight[block]);
    if (threadIdx.x != 0) return;
    atomicXor(&sums[number].remainder, total);
    __threadfence();
    if (atomicAdd(&sums[number].n_arrived, 1) + 1 < tb.n_blocks) return;
    __threadfence();
    crc[number] = atomicXor(&sums[number].remainder, 0);
    sums[number].remainder = 0;
    sums[number].n_arrived = 0;
}
