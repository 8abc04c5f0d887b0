// Rate recovery of whole transport blocks: bit deinterleaving, the circular buffer the other way
// round, repetitions and earlier transmissions added up, fillers put in.
//
// Spec: TS 38.212 5.4.2
//
// One thread block for each code block. The received LLRs of a code block are copied into shared
// memory, 16 bytes a read, because deinterleaving takes every Qm-th of them; then every thread
// writes four neighbouring places of the buffer at a time.

#include "transport.cuh"

constexpr int LIMIT = 127;
constexpr int FILLER = 127;

extern __shared__ unsigned char shared[];

// Copies llr[first .. first + n) to shared memory, where it begins at the place returned.
__device__ __forceinline__ unsigned stage(const signed char* llr, unsigned first, unsigned n) {
    const unsigned offset = first % 16;
    const uint4* source = reinterpret_cast<const uint4*>(llr + (first - offset));
    uint4* target = reinterpret_cast<uint4*>(shared);
    for (unsigned i = threadIdx.x; i < (offset + n + 15) / 16; i += blockDim.x)
        target[i] = source[i];
    return offset;
}

// Where a place of the circular buffer finds its received LLRs.
struct Turn {
    unsigned e_bits, n_columns, inverse, ring, order;
    const signed char* received;

    // Sum of the k-th LLR before interleaving and of its repetitions.
    __device__ int sum(unsigned k) const {
        int total = 0;
        for (; k < e_bits; k += ring) {
            // k / n_columns: the estimate by the rounded-down inverse is at most one too small.
            unsigned row = static_cast<unsigned>(static_cast<unsigned long long>(k) * inverse >> 32);
            unsigned column = k - row * n_columns;
            if (column >= n_columns) ++row, column -= n_columns;
            total += received[column * order + row];
        }
        return total;
    }
};

__device__ __forceinline__ int saturated(int value) {
    return value < -LIMIT ? -LIMIT : value > LIMIT ? LIMIT : value;
}

// llr: int8 of all transport blocks in the order of transmission, descrambled, readable to the next
// multiple of 16. tb_of_block: -1 for no code block. soft: int8, the pool of soft buffers. control:
// int32, number of code blocks.
extern "C" __global__ void __launch_bounds__(256)
    rate_recover(const signed char* llr, const Reception* receptions, const int* tb_of_block,
                 const int* control, signed char* soft, int stage_bytes) {
    const int block = blockIdx.x;
    if (block >= control[0] || tb_of_block[block] < 0) return;
    const Reception tb = receptions[tb_of_block[block]];
    const int index = block - tb.first_block;
    Turn turn;
    turn.e_bits = index < tb.n_short ? tb.e_short : tb.e_long;
    turn.order = tb.modulation_order;
    turn.n_columns = turn.e_bits / turn.order;
    turn.inverse = 0xffffffffu / turn.n_columns;
    const int n_filler = tb.filler_end - tb.filler_start;
    turn.ring = tb.buffer_bits - n_filler;
    const int n_long_before = index < tb.n_short ? 0 : index - tb.n_short;
    const unsigned first = tb.first_llr + index * tb.e_short + n_long_before * (tb.e_long - tb.e_short);
    turn.received = llr + first;
    if (turn.e_bits + 32 <= stage_bytes) {
        turn.received = reinterpret_cast<const signed char*>(shared) + stage(llr, first, turn.e_bits);
        __syncthreads();
    }
    unsigned* target = reinterpret_cast<unsigned*>(soft + (tb.soft_at + index * tb.soft_stride) * 16ll);
    for (int word = threadIdx.x; word * 4 < tb.n_after; word += blockDim.x) {
        const unsigned before = word * 4 < tb.n_before ? target[word] : 0;
        unsigned after = 0;
#pragma unroll
        for (int byte = 0; byte < 4; ++byte) {
            const int place = word * 4 + byte;
            int value = place < tb.n_before ? static_cast<signed char>(before >> 8 * byte) : 0;
            if (place >= tb.filler_start && place < tb.filler_end) {
                value = FILLER;
            } else if (place < tb.buffer_bits) {
                const int ahead = (place < tb.filler_start ? place : place - n_filler) - tb.start;
                value = saturated(value + turn.sum(ahead < 0 ? ahead + turn.ring : ahead));
            }
            after |= (value & 255u) << 8 * byte;
        }
        target[word] = after;
    }
}
