// The resource grids of the cells that send: sequences, DM-RS, precoding and mapping.
//
// Spec: TS 38.211 5.2.1, 7.3.1.1, 7.3.1.4 to 7.3.1.6, 7.4.1.1
//
// A thread makes one resource element on all antennas of its cell, whoever uses it, so that every
// slot writes the whole grid and neighbouring threads write neighbouring samples.

#include <cuda_fp16.h>

#include "gold.cuh"

const int MAX_LAYERS = 4;
const int N_SYMBOLS = 14;

// A UE that is sent to; phy/gpu/downlink_layout.py fills it in, field by field in this order.
struct Receiver {
  int n_layers;              // 0: no UE in this record
  int symbols_at;            // place of its first layer's data symbols
  int layer_stride;          // from one layer's symbols to the next one's
  int period;                // subcarriers after which the DM-RS repeats: 2 or 6
  int n_reserved;            // of those, how many carry no data in a DM-RS symbol
  int dmrs_row[N_SYMBOLS];   // row of the pilots; -1: no DM-RS symbol
  int data_start[N_SYMBOLS]; // a layer's data symbols before this OFDM symbol; -1: it has no data
  int n_dmrs_rows;
  int dmrs_symbol[8];        // of each row
  int layer_comb[MAX_LAYERS];   // first subcarrier of the layer's pilots within the period
  int layer_cover[MAX_LAYERS];  // 1: its pilots alternate in sign
  int layer_sign[MAX_LAYERS];   // of its pilots on the second symbol of a pair
  int is_pair;               // DM-RS of two symbols
  int slot_number;
  int pilot_n_id;
  int pilot_n_scid;
  int pilot_first_chunk;     // chunks of the DM-RS sequence before what is generated
  int pilot_first_bit;       // of the first PRB's pilots, within that
  int pilot_at;              // words before its pilots, a multiple of 16
  int pilot_stride;          // words of a DM-RS symbol, a multiple of 16
  float pilot_scale;         // beta / sqrt(2)
  int scrambling_at;         // words before its scrambling sequence, a multiple of 16
  int scrambling_c_init;
  int n_coded_bits;
};

struct Cell {
  int grid_at;  // samples before its grid
  int n_prb;
  int n_antennas;
  int prb_at;   // PRBs of the cells before it
};

// Who uses a PRB: the UE's record, or -1; which of its PRBs it is, and which of those from its first
// one on; its precoding weights, or -1 for none.
struct Prb {
  int ue, number, distance, weights;
};

// grid: (threads for the largest UE, UEs); block: 128. Writes pilots, scrambling: packed bits.
extern "C" __global__ void __launch_bounds__(THREADS)
downlink_sequences(const Receiver* ues, const unsigned* jumps, const unsigned* first_register,
                   unsigned* pilots, unsigned* scrambling, int n_chunks) {
  const Receiver& ue = ues[blockIdx.y];
  if (ue.n_layers == 0) return;
  const int thread = blockIdx.x * THREADS + threadIdx.x;
  const int of_symbol = ue.pilot_stride / WORDS;
  const int n_pilot_chunks = ue.n_dmrs_rows * of_symbol;
  if (thread < n_pilot_chunks) {
    const int row = thread / of_symbol, chunk = thread % of_symbol;
    const unsigned c_init = pilot_c_init(ue.slot_number, ue.dmrs_symbol[row], ue.pilot_n_id,
                                         unsigned(ue.pilot_n_scid));
    generate(pilots + ue.pilot_at + row * ue.pilot_stride + chunk * WORDS, jumps, first_register,
             n_chunks, c_init, ue.pilot_first_chunk + chunk);
    return;
  }
  const int chunk = thread - n_pilot_chunks;
  if (chunk * WORDS * 32 >= ue.n_coded_bits) return;
  generate(scrambling + ue.scrambling_at + chunk * WORDS, jumps, first_register, n_chunks,
           unsigned(ue.scrambling_c_init), chunk);
}

__device__ __forceinline__ float2 as_floats(unsigned symbol) {
  return __half22float2(*reinterpret_cast<const __half2*>(&symbol));
}

// The pilots of all layers on one resource element of a DM-RS symbol; zero where a layer has none.
// False: no layer's pilots are here, nor any other UE's.
__device__ __forceinline__ bool pilots_of(const Receiver& ue, const Prb& prb, const unsigned* pilots,
                                          int row, int k, float2* layer) {
  const int in_period = k % ue.period;
  if (in_period >= ue.n_reserved) return false;
  // Pilots of a comb in a PRB: 6, each second subcarrier, or 4, two neighbours in every six.
  const int pilot = ue.period == 2 ? k / 2 : 2 * (k / 6) + in_period % 2;
  const int per_prb = ue.period == 2 ? 6 : 4;
  const int bit = ue.pilot_first_bit + 2 * (per_prb * prb.distance + pilot);
  const unsigned two = pilots[ue.pilot_at + row * ue.pilot_stride + bit / 32] >> bit % 32;
  const float2 value = make_float2(two & 1u ? -ue.pilot_scale : ue.pilot_scale,
                                   two & 2u ? -ue.pilot_scale : ue.pilot_scale);
  const int comb = ue.period == 2 ? in_period : in_period & ~1;
  // Signs alternate along the UE's own PRBs, each of which has an even number of pilots.
  const bool is_odd = pilot % 2 == 1, is_second = ue.is_pair && row % 2 == 1;
  for (int l = 0; l < ue.n_layers; ++l) {
    if (ue.layer_comb[l] != comb) continue;
    const bool turns = (is_odd && ue.layer_cover[l]) != (is_second && ue.layer_sign[l] < 0);
    layer[l] = turns ? make_float2(-value.x, -value.y) : value;
  }
  return true;
}

__device__ __forceinline__ void data_of(const Receiver& ue, const Prb& prb, const unsigned* symbols,
                                        int symbol, bool is_dmrs, int k, float2* layer) {
  if (ue.data_start[symbol] < 0) return;
  const int n_reserved = is_dmrs ? ue.n_reserved : 0;
  const int of_period = ue.period - n_reserved;
  const int rank = prb.number * (12 / ue.period) * of_period + k / ue.period * of_period +
                   k % ue.period - n_reserved;
  const unsigned* first = symbols + ue.symbols_at + ue.data_start[symbol] + rank;
  for (int l = 0; l < ue.n_layers; ++l) layer[l] = as_floats(first[l * ue.layer_stride]);
}

// grid: (subcarriers of the largest cell / 128, 14, cells); block: 128. symbols: binary16 pairs.
// weights: float2[set][antenna][layer]. Writes grid: binary16 pairs [antenna][14][subcarrier] of
// each cell.
extern "C" __global__ void __launch_bounds__(128)
map_downlink(const Cell* cells, const Prb* prbs, const Receiver* ues, const unsigned* symbols,
             const unsigned* pilots, const float2* weights, __half2* grid, int max_antennas) {
  const Cell cell = cells[blockIdx.z];
  const int subcarrier = blockIdx.x * 128 + threadIdx.x, symbol = blockIdx.y;
  const int width = 12 * cell.n_prb;
  if (subcarrier >= width) return;
  const Prb prb = prbs[cell.prb_at + subcarrier / 12];
  float2 layer[MAX_LAYERS];
#pragma unroll
  for (int l = 0; l < MAX_LAYERS; ++l) layer[l] = make_float2(0.0f, 0.0f);
  if (prb.ue >= 0) {
    const Receiver& ue = ues[prb.ue];
    const int k = subcarrier % 12, row = ue.dmrs_row[symbol];
    if (row < 0 || !pilots_of(ue, prb, pilots, row, k, layer))
      data_of(ue, prb, symbols, symbol, row >= 0, k, layer);
  }
  __half2* to = grid + cell.grid_at + symbol * width + subcarrier;
  const int n_layers = prb.ue >= 0 ? ues[prb.ue].n_layers : 0;
  for (int antenna = 0; antenna < cell.n_antennas; ++antenna) {
    float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int l = 0; l < MAX_LAYERS; ++l) {
      if (l >= n_layers) break;
      if (prb.weights < 0) {
        if (l == antenna) sum = layer[l];
        continue;
      }
      const float2 weight = weights[(prb.weights * max_antennas + antenna) * MAX_LAYERS + l];
      sum.x = fmaf(weight.x, layer[l].x, sum.x);
      sum.x = fmaf(-weight.y, layer[l].y, sum.x);
      sum.y = fmaf(weight.x, layer[l].y, sum.y);
      sum.y = fmaf(weight.y, layer[l].x, sum.y);
    }
    to[antenna * N_SYMBOLS * width] = __floats2half2_rn(sum.x, sum.y);
  }
}
