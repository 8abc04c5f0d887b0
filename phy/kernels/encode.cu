// Transport blocks to modulation symbols: CRCs, LDPC encoding, rate matching, bit interleaving,
// scrambling, modulation and layer mapping.
//
// Spec: TS 38.212 5.1, 5.2.2, 5.3.2, 5.4.2; TS 38.211 7.3.1.1 to 7.3.1.3
//
// The CRCs of the transport blocks come from `tb_crc` (crc.cu); this kernel does all the rest, one
// thread block for each code block, whose bits never leave shared memory before they are symbols.
//
// Bits are packed, the first in the highest place of a word. A column of the lifted base graph takes
// COLUMN_WORDS words: behind its Z bits it begins anew, so that 32 bits of it, turned by any shift,
// are two neighbouring words and a funnel shift.
//
// Before this text phy/gpu/transmit.py puts BASE_GRAPH's numbers in capitals and the graph: EDGE[e],
// the column of an edge in the upper and its shift in the lower 16 bits, and ROW_START[row]; of the
// rows from N_CORE_ROWS on without their own last bits.

#include "bits.cuh"
#include "transport.cuh"

constexpr int N_CORE_ROWS = 4;
constexpr int N_THREADS = 128;
constexpr int N_WARPS = N_THREADS / 32;
constexpr int N_WORDS = (Z + 31) / 32;     // words with bits of a column
constexpr int COLUMN_WORDS = Z / 32 + 2;
constexpr int N_INFO_WORDS = (N_INFO_COLUMNS * Z + 31) / 32;

struct CodeWord {
    unsigned info[N_INFO_WORDS + 2];  // the information bits with fillers, one after the other
    unsigned column[N_COLUMNS + N_CORE_ROWS + 1][COLUMN_WORDS];  // behind: sums of rows, and of those
    unsigned part[N_WARPS];
};

// The code block's bits with all its CRCs. Every thread must call this.
__device__ __forceinline__ void assemble(CodeWord& code, const Transmission& tb, int index,
                                         const unsigned* tbs, const unsigned* crc,
                                         const unsigned* powers) {
    const int n_bits = own_bits(tb, index);
    const unsigned first_byte = tb.tb_at + index * (tb.payload_bits / 8);
    for (int word = threadIdx.x; word < N_INFO_WORDS + 2; word += N_THREADS) {
        const int left = n_bits - word * 32;
        code.info[word] = left > 0 ? upper(from_byte(tbs, first_byte + 4 * word), left) : 0;
    }
    __syncthreads();
    if (n_bits < tb.payload_bits) {
        if (threadIdx.x == 0) put(code.info, n_bits, crc[tb.number], tb.tb_crc_bits);
        __syncthreads();
    }
    if (tb.n_blocks == 1) return;
    const auto word_at = [&](int word) { return code.info[word]; };
    const unsigned sum = remainder(word_at, tb.payload_bits, tb.payload_bits - 1 + 24, powers);
    if (threadIdx.x % 32 == 0) code.part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned total = 0;
        for (int warp = 0; warp < N_WARPS; ++warp) total ^= code.part[warp];
        put(code.info, tb.payload_bits, total, 24);
    }
    __syncthreads();
}

// Lets columns begin anew behind their Z bits. Every thread must call this.
__device__ __forceinline__ void close_columns(CodeWord& code, int first, int count) {
    __syncthreads();
    for (int task = threadIdx.x; task < 2 * count; task += N_THREADS) {
        unsigned* words = code.column[first + task / 2];
        const int word = Z / 32 + task % 2;
        if (Z % 32 == 0) {
            words[word] = words[task % 2 % N_WORDS];
            continue;
        }
        unsigned closed = 0;
        for (int bit = word * 32; bit < word * 32 + 32; ++bit) {
            const int source = bit % Z;
            closed = closed << 1 | (words[source / 32] >> (31 - source % 32) & 1);
        }
        words[word] = closed;
    }
    __syncthreads();
}

// 32 bits of a column from bit 32 * word + shift on.
__device__ __forceinline__ unsigned turned(const CodeWord& code, int column, int shift, int word) {
    const int bit = 32 * word + shift;
    return bits_at(code.column[column], bit < Z ? bit : bit - Z);
}

__device__ __forceinline__ unsigned row_sum(
    const CodeWord& code, int first_edge, int end_edge, int word) {
    unsigned sum = 0;
    for (int edge = first_edge; edge < end_edge; ++edge)
        sum ^= turned(code, EDGE[edge] >> 16, EDGE[edge] & 0xffff, word);
    return sum;
}

// Fills in all columns of the code word but those of rows that are not sent.
__device__ __forceinline__ void encode_columns(CodeWord& code, int n_rows) {
    for (int task = threadIdx.x; task < N_INFO_COLUMNS * N_WORDS; task += N_THREADS) {
        const int column = task / N_WORDS, word = task % N_WORDS;
        code.column[column][word] = bits_at(code.info, column * Z + word * 32);
    }
    close_columns(code, 0, N_INFO_COLUMNS);
    // The core rows' sums over the information columns, and the sum of those.
    for (int task = threadIdx.x; task < N_CORE_ROWS * N_WORDS; task += N_THREADS) {
        const int row = task / N_WORDS, word = task % N_WORDS;
        code.column[N_COLUMNS + row][word] =
            row_sum(code, ROW_START[row], CORE_INFO_END[row], word);
    }
    __syncthreads();
    constexpr int total = N_COLUMNS + N_CORE_ROWS;
    for (int word = threadIdx.x; word < N_WORDS; word += N_THREADS) {
        unsigned sum = 0;
        for (int row = 0; row < N_CORE_ROWS; ++row) sum ^= code.column[N_COLUMNS + row][word];
        code.column[total][word] = sum;
    }
    close_columns(code, total, 1);
    for (int word = threadIdx.x; word < N_WORDS; word += N_THREADS)
        code.column[N_INFO_COLUMNS][word] = turned(code, total, CORE_TURN, word);
    close_columns(code, N_INFO_COLUMNS, 1);
    // Each core row gives the next parity column; all but the first of them are not turned.
    for (int word = threadIdx.x; word < N_WORDS; word += N_THREADS) {
        for (int row = 0; row < N_CORE_ROWS - 1; ++row) {
            unsigned sum = code.column[N_COLUMNS + row][word];
            for (int edge = CORE_INFO_END[row]; edge < ROW_START[row + 1]; ++edge) {
                const int column = EDGE[edge] >> 16;
                if (column == N_INFO_COLUMNS) sum ^= turned(code, column, EDGE[edge] & 0xffff, word);
                else if (column <= N_INFO_COLUMNS + row) sum ^= code.column[column][word];
            }
            code.column[N_INFO_COLUMNS + row + 1][word] = sum;
        }
    }
    close_columns(code, N_INFO_COLUMNS + 1, N_CORE_ROWS - 1);
    for (int task = threadIdx.x; task < (n_rows - N_CORE_ROWS) * N_WORDS; task += N_THREADS) {
        const int row = N_CORE_ROWS + task / N_WORDS, word = task % N_WORDS;
        code.column[N_INFO_COLUMNS + row][word] =
            row_sum(code, ROW_START[row], ROW_START[row + 1], word);
    }
    __syncthreads();
}

// 32 bits of a scrambling sequence from any bit on, the first in the highest place.
__device__ __forceinline__ unsigned gold_bits(const unsigned* words, unsigned bit) {
    const unsigned word = bit / 32;
    return __brev(__funnelshift_r(words[word], words[word + 1], bit % 32));
}

// Where the bits of a code block are taken from its circular buffer.
struct Ring {
    int start, size, filler_start, n_filler;

    // The k-th bit that is sent.
    __device__ unsigned bit(const CodeWord& code, int k) const {
        int place = start + k;
        if (place >= size) place -= size;
        if (place >= size) place %= size;
        if (place >= filler_start) place += n_filler;
        const int column = place / Z, bit = place - column * Z;
        return code.column[column + 2][bit / 32] >> (31 - bit % 32) & 1;
    }
};

// tb_of_block: -1 for no code block. scrambling: the scrambling sequences, packed, the first bit in the
// lowest place of a word, readable a word beyond the last. points: Symbol, the
// constellations. Writes symbols: Symbol[...].
extern "C" __global__ void __launch_bounds__(N_THREADS)
    encode(const unsigned* tbs, const Transmission* transmissions, const int* tb_of_block,
           const int* index_of_block, const unsigned* crc, const unsigned* powers,
           const unsigned* scrambling, const Symbol* points, const int* control, int first_block,
           Symbol* symbols) {
    __shared__ CodeWord code;
    __shared__ Symbol constellation[256];
    const int block = blockIdx.x + first_block;
    if (block >= control[0] || tb_of_block[block] < 0) return;
    const int index = index_of_block[block];
    const Transmission tb = transmissions[tb_of_block[block]];
    const int order = tb.modulation_order;
    for (int label = threadIdx.x; label < 1 << order; label += N_THREADS)
        constellation[label] = points[tb.points_at + label];
    assemble(code, tb, index, tbs, crc, powers);
    encode_columns(code, tb.n_rows);

    const int n_filler = tb.filler_end - tb.filler_start;
    const Ring ring = {tb.start, tb.buffer_bits - n_filler, tb.filler_start, n_filler};
    const int e_bits = index < tb.n_short ? tb.e_short : tb.e_long;
    const int n_long_before = index < tb.n_short ? 0 : index - tb.n_short;
    const int first_bit = index * tb.e_short + n_long_before * (tb.e_long - tb.e_short);
    const unsigned* sequence = scrambling + tb.scrambling_at;
    const int n_symbols = e_bits / order;
    const int first_symbol = first_bit / order;
    for (int symbol = threadIdx.x; symbol < n_symbols; symbol += N_THREADS) {
        unsigned label = 0;
        for (int row = 0; row < order; ++row)
            label = label << 1 | ring.bit(code, row * n_symbols + symbol);
        label ^= gold_bits(sequence, first_bit + symbol * order) >> (32 - order);
        const int number = first_symbol + symbol;
        const int place = number / tb.n_layers, layer = number - place * tb.n_layers;
        symbols[tb.symbols_at + layer * tb.layer_stride + place] = constellation[label];
    }
}
