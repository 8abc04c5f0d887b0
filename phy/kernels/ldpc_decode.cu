// Layered normalised min-sum decoding of LDPC code blocks, two at a time in the halves of a word.
//
// Spec: the code is TS 38.212 5.3.2; the algorithm is layered belief propagation (Hocevar, 2004)
// with the normalised min-sum check node (Chen and Fossorier, 2002).
//
// A thread block decodes 2 * PAIRS code blocks. Thread f works on check f / PAIRS of every
// base-graph row, for pair f % PAIRS, so PAIRS interleaved code blocks of lifting size Z are one of
// size SIZE = Z * PAIRS, shifts and all. Totals stand in shared memory, one word a bit and pair;
// neighbouring threads touch neighbouring words, so no bank is asked twice. Check messages of the
// first N_REGISTER_ROWS rows stay in registers for the whole decoding, those of the rows below in
// shared memory, as words or, where words find no room, as bytes.
//
// The last bit of a row from N_CORE_ROWS on is in no other row. What it tells the row is always its
// channel value, so that stands in shared memory and is never changed.
//
// All values are whole numbers, and binary16 holds those up to 2048 exactly; only totals go further
// and are rounded. The NumPy twin (phy/gpu/ldpc_twin.py) does the same operation by operation.
//
// Before this text phy/gpu/ldpc_layout.py puts the constants in capitals and the graph:
// COLUMN[e] and SHIFT[e] of edge e of the rows without their own last bits, ROW_START[row], and
// WAIT[row], which says whether threads wait for each other after the row.

#include "half2.cuh"

constexpr unsigned SIZE = Z * PAIRS;
constexpr unsigned SIZE_BYTES = SIZE * 4;
constexpr int N_CORE_ROWS = 4;
constexpr int N_TOTALS = N_INFO_COLUMNS + N_CORE_ROWS;
constexpr int N_OWN = N_ROWS - N_CORE_ROWS;  // rows with a last bit of their own
constexpr int N_INFO_BITS = N_INFO_COLUMNS * Z;
constexpr int N_WORDS = (N_INFO_BITS + 31) / 32;
constexpr int N_REGISTER_EDGES = ROW_START[N_REGISTER_ROWS];
constexpr unsigned OWN_AT = N_TOTALS * SIZE_BYTES;
constexpr int N_OWN_WORDS = MESSAGE_BYTES ? (N_OWN + 1) / 2 : N_OWN;
constexpr unsigned MESSAGES_AT = OWN_AT + N_OWN_WORDS * SIZE_BYTES;
constexpr bool ALL_ACTIVE = THREADS == SIZE;

// 1536 + 128: added to a small whole number, it leaves the number + 128 in the low byte.
constexpr Pair BYTE_BIAS = both(1664);
constexpr Pair BYTE_BIAS_HIGH = 0x66666666u;

extern __shared__ unsigned char shared[];

// A word of shared memory, by its place in bytes.
__device__ __forceinline__ Pair load_shared(unsigned at) {
    return *reinterpret_cast<const Pair*>(shared + at);
}

__device__ __forceinline__ void store_shared(unsigned at, Pair value) {
    *reinterpret_cast<Pair*>(shared + at) = value;
}

// A channel value pair with its bytes' bias and 0x66 in the higher bytes, in the decoder's units.
__device__ __forceinline__ Pair from_bytes(unsigned biased) {
    return fma(biased, both(LLR_UNITS), both(-1664 * LLR_UNITS));
}

struct Thread {
    unsigned at;                     // place in bytes of its check in a column without a shift
    bool active;                     // false in threads that only fill up the last warp
    Pair message[N_REGISTER_EDGES];  // of the rows whose messages fit into registers
    unsigned own_signs[(N_OWN + 15) / 16 + 1];  // decisions on the rows' own bits
};

// Where a check finds its bit: `at` moved on by `shift` checks, turning over at the end.
__device__ __forceinline__ unsigned turned(unsigned at, int shift) {
    const unsigned ahead = at + shift * PAIRS * 4;
    const unsigned wrapped = ahead - SIZE_BYTES;
    return ahead < wrapped ? ahead : wrapped;  // unsigned: below zero is very large
}

__device__ constexpr int words_before(int row) {
    int words = 0;
    for (int r = N_REGISTER_ROWS; r < row; ++r) {
        const int weight = ROW_START[r + 1] - ROW_START[r];
        words += MESSAGE_BYTES ? (weight + 1) / 2 : weight;
    }
    return words;
}

template <int ROW>
__device__ __forceinline__ void load_messages(const Thread& thread, Pair* message) {
    constexpr int first = ROW_START[ROW], weight = ROW_START[ROW + 1] - first;
    constexpr unsigned base = MESSAGES_AT + words_before(ROW) * SIZE_BYTES;
#pragma unroll
    for (int k = 0; k < weight; ++k) {
        if constexpr (ROW < N_REGISTER_ROWS) {
            message[k] = thread.message[first + k];
        } else if constexpr (!MESSAGE_BYTES) {
            message[k] = load_shared(thread.at + base + k * SIZE_BYTES);
        } else if (k % 2 == 0) {
            const unsigned word = load_shared(thread.at + base + k / 2 * SIZE_BYTES);
            message[k] = subtract(bytes(word, BYTE_BIAS_HIGH, 0x4140), BYTE_BIAS);
            if (k + 1 < weight)
                message[k + 1] = subtract(bytes(word, BYTE_BIAS_HIGH, 0x4342), BYTE_BIAS);
        }
    }
}

template <int ROW>
__device__ __forceinline__ void store_messages(Thread& thread, const Pair* message) {
    constexpr int first = ROW_START[ROW], weight = ROW_START[ROW + 1] - first;
    constexpr unsigned base = MESSAGES_AT + words_before(ROW) * SIZE_BYTES;
#pragma unroll
    for (int k = 0; k < weight; ++k) {
        if constexpr (ROW < N_REGISTER_ROWS) {
            thread.message[first + k] = message[k];
        } else if constexpr (!MESSAGE_BYTES) {
            if (ALL_ACTIVE || thread.active)
                store_shared(thread.at + base + k * SIZE_BYTES, message[k]);
        } else if (k % 2 == 0) {
            const Pair low = add(message[k], BYTE_BIAS);
            const Pair high = k + 1 < weight ? add(message[k + 1], BYTE_BIAS) : low;
            if (ALL_ACTIVE || thread.active)
                store_shared(thread.at + base + k / 2 * SIZE_BYTES, bytes(low, high, 0x6420));
        }
    }
}

// The channel values of the last bit of a row, which no other row has.
template <int ROW>
__device__ __forceinline__ Pair own_channel(const Thread& thread) {
    constexpr int own = ROW - N_CORE_ROWS;
    if constexpr (!MESSAGE_BYTES) return load_shared(thread.at + OWN_AT + own * SIZE_BYTES);
    const unsigned word = load_shared(thread.at + OWN_AT + own / 2 * SIZE_BYTES);
    return from_bytes(bytes(word, BYTE_BIAS_HIGH, own % 2 ? 0x4342 : 0x4140));
}

// One layer: takes the row's old messages out of the totals and puts the new ones in.
template <int ROW>
__device__ __forceinline__ void update_row(Thread& thread, Pair norm) {
    constexpr int first = ROW_START[ROW], weight = ROW_START[ROW + 1] - first;
    constexpr bool has_own = ROW >= N_CORE_ROWS;
    Pair message[weight], extrinsic[weight];
    unsigned at[weight];
    load_messages<ROW>(thread, message);
    Pair own = 0, smallest = both(MESSAGE_LIMIT), second = smallest, signs = 0;
    if constexpr (has_own) {
        own = own_channel<ROW>(thread);
        smallest = smaller(smallest, magnitude(own));
        signs = own;
    }
#pragma unroll
    for (int k = 0; k < weight; ++k) {
        at[k] = turned(thread.at, SHIFT[first + k]) + COLUMN[first + k] * SIZE_BYTES;
        extrinsic[k] = subtract(load_shared(at[k]), message[k]);
        signs ^= extrinsic[k];
        const Pair size = magnitude(extrinsic[k]);
        if (k % 4 < SUMS_OF_FOUR) {
            const Pair step = excess(smallest, size);
            second = smaller(second, add(size, step));
            smallest = subtract(smallest, step);
        } else {
            second = smaller(second, larger(size, smallest));
            smallest = smaller(smallest, size);
        }
    }
    // An edge hears the smallest of the others: the second smallest if its own is the smallest
    // (with a tie the two are equal), with the product of the others' signs. Adding 1024 rounds.
    const Pair rounder = both(1024);
    signs &= SIGNS;
    const Pair to_others = subtract(fma(smallest, norm, rounder), rounder) ^ signs;
    const Pair to_smallest = subtract(fma(second, norm, rounder), rounder) ^ signs;
    const Pair difference = subtract(to_smallest, to_others);
#pragma unroll
    for (int k = 0; k < weight; ++k) {
        const Pair is_smallest = equal(magnitude(extrinsic[k]), smallest);
        message[k] = fma(is_smallest, difference, to_others) ^ (extrinsic[k] & SIGNS);
        if (ALL_ACTIVE || thread.active) store_shared(at[k], add(extrinsic[k], message[k]));
    }
    store_messages<ROW>(thread, message);
    if constexpr (has_own) {
        constexpr int place = (ROW - N_CORE_ROWS) % 16;
        unsigned& kept = thread.own_signs[(ROW - N_CORE_ROWS) / 16];
        const Pair is_smallest = equal(magnitude(own), smallest);
        const Pair to_own = fma(is_smallest, difference, to_others) ^ (own & SIGNS);
        const unsigned decided = add(own, to_own) >> 15 & 0x00010001u;
        kept = kept & ~(0x00010001u << place) | decided << place;
    }
}

template <int ROW = 0>
__device__ __forceinline__ void update_rows(Thread& thread, Pair norm) {
    update_row<ROW>(thread, norm);
    if constexpr (WAIT[ROW]) __syncthreads();
    if constexpr (ROW + 1 < N_ROWS) update_rows<ROW + 1>(thread, norm);
}

// Bits 15 and 31 tell whether the row's check fails, in the first and the second block of the pair;
// with `STRICT` it also fails where one of its bits is undecided (zero).
template <int ROW, bool STRICT>
__device__ __forceinline__ Pair failures(Thread& thread) {
    constexpr int first = ROW_START[ROW], weight = ROW_START[ROW + 1] - first;
    Pair parity = 0, undecided = 0;
#pragma unroll
    for (int k = 0; k < weight; ++k) {
        const Pair total =
            load_shared(turned(thread.at, SHIFT[first + k]) + COLUMN[first + k] * SIZE_BYTES);
        parity ^= total;
        if (STRICT) undecided |= equal(total, 0);  // 1.0 is 0x3c00
    }
    if constexpr (ROW >= N_CORE_ROWS) {
        constexpr int place = (ROW - N_CORE_ROWS) % 16;
        parity ^= thread.own_signs[(ROW - N_CORE_ROWS) / 16] << (15 - place);
    }
    return parity | undecided << 2;
}

template <int ROW = 0>
__device__ __forceinline__ Pair all_failures(Thread& thread) {
    Pair failed = failures<ROW, true>(thread);
    if constexpr (ROW + 1 < N_ROWS) failed |= all_failures<ROW + 1>(thread);
    return failed;
}

// What the thread block knows of its code blocks: the first and the second block of every pair.
struct Blocks {
    unsigned zero;                    // 0
    unsigned char failed[2 * PAIRS];  // some check does not hold
    unsigned char done[2 * PAIRS];    // decided and written, or not there at all
};

__device__ __forceinline__ void note_failures(
    const Thread& thread, Blocks& blocks, Pair failed, int pair) {
    if (!ALL_ACTIVE && !thread.active) return;
    if (failed & 0x00008000u) blocks.failed[2 * pair] = 1;
    if (failed & 0x80000000u) blocks.failed[2 * pair + 1] = 1;
}

__device__ __forceinline__ bool may_be_done(const Blocks& blocks, int pair) {
    const bool first = !blocks.failed[2 * pair] && !blocks.done[2 * pair];
    return first || (!blocks.failed[2 * pair + 1] && !blocks.done[2 * pair + 1]);
}

// Gives the thread its place by a way the compiler cannot follow. If it knew that checking needs the
// same addresses as updating, it would keep all of them in registers, which have no room for that.
__device__ __forceinline__ void forget_place(Thread& thread, const Blocks& blocks) {
    thread.at += *const_cast<const volatile unsigned*>(&blocks.zero);
}

// Finds out which code blocks fulfil all checks, in Blocks::failed; true if any does newly. One row
// alone tells mostly that none does. Every thread must call this.
__device__ __forceinline__ bool find_done(Thread& thread, Blocks& blocks, int pair) {
    forget_place(thread, blocks);
    note_failures(thread, blocks, failures<0, false>(thread), pair);
    __syncthreads();
    if (!__syncthreads_or(may_be_done(blocks, pair))) return false;
    note_failures(thread, blocks, all_failures(thread), pair);
    __syncthreads();
    return __syncthreads_or(may_be_done(blocks, pair));
}

struct Results {
    unsigned* bits;            // [cb, N_WORDS], first bit highest
    unsigned char* parity_ok;  // [cb]
    int* iterations;           // [cb]
};

// Writes the blocks that are newly done, or with `all` also those that are not.
__device__ __forceinline__ void write_results(
    const Blocks& blocks, int first_block, int count, bool all, Results results) {
    const int lane = threadIdx.x % 32;
    for (int pair = 0; pair < PAIRS; ++pair) {
        const int block = first_block + 2 * pair;
        const bool write_first = !blocks.done[2 * pair] && (all || !blocks.failed[2 * pair]);
        const bool write_second =
            !blocks.done[2 * pair + 1] && (all || !blocks.failed[2 * pair + 1]);
        if (!write_first && !write_second) continue;
        for (int word = threadIdx.x / 32; word < N_WORDS; word += THREADS / 32) {
            const int bit = word * 32 + lane;
            const int column = bit / Z;
            Pair total = 0;
            if (N_INFO_BITS % 32 == 0 || bit < N_INFO_BITS)
                total = load_shared((column * SIZE + (bit - column * Z) * PAIRS + pair) * 4);
            const unsigned first = __brev(__ballot_sync(~0u, total & 0x00008000u));
            const unsigned second = __brev(__ballot_sync(~0u, total & 0x80000000u));
            if (lane == 0 && write_first) results.bits[block * N_WORDS + word] = first;
            if (lane == 0 && write_second) results.bits[(block + 1) * N_WORDS + word] = second;
        }
        if (threadIdx.x < 2 && (threadIdx.x == 0 ? write_first : write_second)) {
            results.parity_ok[block + threadIdx.x] = !blocks.failed[2 * pair + threadIdx.x];
            results.iterations[block + threadIdx.x] = count;
        }
    }
}

// Two channel values, biased to be positive, in the lower bytes of a word's halves.
__device__ __forceinline__ unsigned channel_bytes(unsigned char first, unsigned char second) {
    return (first | second << 16) ^ 0x00800080u;
}

__device__ __forceinline__ void load_channel(
    const signed char* llr, const int* llr_at, unsigned at, int block, int n_blocks) {
    const int check = threadIdx.x / PAIRS;
    const bool has_first = block < n_blocks, has_second = block + 1 < n_blocks;
    const signed char* first = llr + (has_first ? llr_at[block] * 16ll : 0) + check;
    const signed char* second = llr + (has_second ? llr_at[block + 1] * 16ll : 0) + check;
    const auto channel = [&](int column) {
        const int place = (column - 2) * static_cast<int>(Z);
        return channel_bytes(has_first ? first[place] : 0, has_second ? second[place] : 0);
    };
    store_shared(at, 0);
    store_shared(at + SIZE_BYTES, 0);
    constexpr int n_words = MESSAGE_BYTES ? N_TOTALS : N_TOTALS + N_OWN;
#pragma unroll
    for (int column = 2; column < n_words; ++column)
        store_shared(at + column * SIZE_BYTES, from_bytes(channel(column) | BYTE_BIAS_HIGH & 0xff00ff00u));
    if constexpr (!MESSAGE_BYTES) return;
#pragma unroll
    for (int own = 0; own < N_OWN; own += 2) {
        const unsigned low = channel(N_TOTALS + own);
        const unsigned high = own + 1 < N_OWN ? channel(N_TOTALS + own + 1) : 0;
        store_shared(at + OWN_AT + own / 2 * SIZE_BYTES, bytes(low, high, 0x6420));
    }
}

__device__ __forceinline__ void clear_messages(Thread& thread) {
#pragma unroll
    for (int k = 0; k < N_REGISTER_EDGES; ++k) thread.message[k] = 0;
    for (unsigned& signs : thread.own_signs) signs = 0;
    if (!ALL_ACTIVE && !thread.active) return;
    for (int k = 0; k < words_before(N_ROWS); ++k)
        store_shared(MESSAGES_AT + k * SIZE_BYTES + thread.at, MESSAGE_BYTES ? 0x80808080u : 0);
}

// llr: int8[...], positive means bit 0. llr_at: int32[cb], where the N LLRs of every code block begin
// in it, in units of 16. control: int32[4], number of code blocks, most iterations, whether to stop
// a block as soon as its checks hold, the normalisation as binary16.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    ldpc_decode(const signed char* llr, const int* llr_at, const int* control, unsigned* bits,
                unsigned char* parity_ok, int* iterations) {
    __shared__ Blocks blocks;
    const Results results = {bits, parity_ok, iterations};
    const int n_blocks = control[0], n_iterations = control[1];
    const bool early_stop = control[2];
    const Pair norm = control[3] * 0x00010001u;
    const int first_block = blockIdx.x * 2 * PAIRS;
    if (first_block >= n_blocks) return;
    const int pair = threadIdx.x % PAIRS;
    Thread thread;
    thread.active = threadIdx.x < SIZE;
    thread.at = ALL_ACTIVE || thread.active ? threadIdx.x * 4 : 0;
    if (ALL_ACTIVE || thread.active)
        load_channel(llr, llr_at, thread.at, first_block + 2 * pair, n_blocks);
    clear_messages(thread);
    if (threadIdx.x == 0) blocks.zero = 0;
    if (threadIdx.x < 2 * PAIRS) {
        blocks.failed[threadIdx.x] = 0;
        blocks.done[threadIdx.x] = first_block + threadIdx.x >= n_blocks;
    }
    __syncthreads();
    for (int count = 1; count <= n_iterations; ++count) {
        update_rows(thread, norm);
        const bool last = count == n_iterations;
        if (!last && !early_stop) continue;
        if (find_done(thread, blocks, pair) || last) {
            write_results(blocks, first_block, count, last, results);
            __syncthreads();
            if (threadIdx.x < 2 * PAIRS && !blocks.failed[threadIdx.x])
                blocks.done[threadIdx.x] = 1;
        }
        __syncthreads();
        if (threadIdx.x < 2 * PAIRS) blocks.failed[threadIdx.x] = 0;
        if (last || __syncthreads_and(blocks.done[2 * pair] && blocks.done[2 * pair + 1])) return;
    }
}
