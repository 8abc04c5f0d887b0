// Channel estimation from the DM-RS: least squares at the pilots, Wiener filter in frequency.
//
// A block filters 64 subcarriers of one UE from the window of 64 pilots around them. Two layers of
// one code differ in the alternating cover alone, so the filter's sum over even pilots, E, and over
// odd ones, O, give both: E + O and E - O, for the price of one. A warp takes four rows (antennas
// and DM-RS positions of a code); its lower half sums E, its upper half O, and they swap.
//
// Bytes: samples of the DM-RS twice (windows overlap), 34 KiB of taps a block (from the L2 cache),
// the estimates once. Operations: 8 * 64 a row and subcarrier; twice 0.27 GFLOP for twenty UEs
// of 273 PRB, 4 antennas, 2 positions, 2 CDM groups.
#include "front_end.cuh"

const int WINDOW = 64;         // pilots
const int TILE = 64;           // subcarriers
const int TABLE_COLUMNS = 132; // of the table of taps: targets from 1 before the first pilot on
const int TAP_STRIDE = 66;
const int ROW_STRIDE = 18;     // 16 rows, and no more than two of 16 lanes in one bank
const int THREADS = 128;
const int WARPS = THREADS / 32;
const int PARTIALS = 20;       // sums of a block: 4 powers, 6 products, residual; padded

__device__ __forceinline__ float2 swap_halves(float2 value) {
  return make_float2(__shfl_xor_sync(0xffffffffu, value.x, 16),
                     __shfl_xor_sync(0xffffffffu, value.y, 16));
}

// grid: (tiles of the largest UE, UEs); block: 128.
//   grid_samples  half2[...], the cells' resource grids
//   pilots        packed Gold bits, two a pilot
//   taps          half2[filter set][64 pilots][132 columns]
//   channel       half2[...], out: [position][rx][subcarrier][layer] of each UE
//   partial       float[UE][tile][20], out
extern "C" __global__ void __launch_bounds__(THREADS)
estimate(const Ue* ues, const __half2* grid_samples, const unsigned* pilots, const __half2* taps,
         __half2* channel, float* partial) {
  __shared__ Ue ue;
  __shared__ float2 tap[WINDOW * TAP_STRIDE];
  __shared__ __align__(16) float2 raw[WINDOW * ROW_STRIDE];
  __shared__ float sums[WARPS][PARTIALS];

  const int thread = threadIdx.x;
  const int first_target = blockIdx.x * TILE;
  if (first_target >= ues[blockIdx.y].n_subcarriers) return;
  fetch(&ue, ues + blockIdx.y, thread, THREADS);
  __syncthreads();

  const int warp = thread >> 5, half = (thread >> 4) & 1, column = thread & 15;
  const int n_pilots = ue.n_subcarriers >> 1;
  const int first_pilot = max(0, min(first_target / 2 - 16, n_pilots - WINDOW));
  const int lead = first_target - 2 * first_pilot;
  // A row group holds all positions of one antenna (4), of two (2) or one of four (1).
  const int padded = ue.n_positions > 2 ? 4 : ue.n_positions;
  const int groups_of_code = (ue.n_rx * padded + 3) / 4;
  const int n_groups = ue.n_codes * groups_of_code;

  float power[4] = {}, product[MAX_PAIRS][2] = {}, residual = 0.0f;

  for (int of_set = 0; of_set < ue.n_codes; ++of_set) {
    // One pass for each filter set in use; most UEs have one.
    const int set = ue.code_filter[of_set];
    bool is_done = false;
    for (int code = 0; code < of_set; ++code) is_done |= ue.code_filter[code] == set;
    if (is_done) continue;

    __syncthreads();
    for (int i = thread; i < WINDOW * TAP_STRIDE; i += THREADS) {
      const int pilot = i / TAP_STRIDE, from = lead + i % TAP_STRIDE;
      tap[i] = from < TABLE_COLUMNS
                   ? __half22float2(taps[(set * WINDOW + pilot) * TABLE_COLUMNS + from])
                   : make_float2(0.0f, 0.0f);
    }

    for (int first_group = 0; first_group < n_groups; first_group += WARPS) {
      __syncthreads();
      for (int i = thread; i < WINDOW * 4 * WARPS; i += THREADS) {
        const int pilot = i % WINDOW, row = i / WINDOW, slot = row & 3;
        const int group = first_group + row / 4, code = group / groups_of_code;
        const int position = slot % padded;
        const int rx = (group % groups_of_code) * (4 / padded) + slot / padded;
        float2 value = make_float2(0.0f, 0.0f);
        if (code < ue.n_codes && ue.code_filter[code] == set && rx < ue.n_rx &&
            position < ue.n_positions && first_pilot + pilot < n_pilots)
          value = least_squares(ue, grid_samples, pilots, ue.code_comb[code], ue.code_sign[code],
                                position, rx, first_pilot + pilot);
        raw[pilot * ROW_STRIDE + row] = value;
      }
      __syncthreads();

      const int group = first_group + warp, code = group / groups_of_code;
      // The whole warp leaves or stays; barriers are outside.
      if (code >= ue.n_codes || ue.code_filter[code] != set) continue;
      const int comb = ue.code_comb[code];

      float2 sum[4][4] = {};  // [row][column]
#pragma unroll 4
      for (int pilot = half; pilot < WINDOW; pilot += 2) {
        const float4* rows = reinterpret_cast<const float4*>(raw + pilot * ROW_STRIDE + 4 * warp);
        const float4 low = rows[0], high = rows[1];
        const float2 from[4] = {make_float2(low.x, low.y), make_float2(low.z, low.w),
                                make_float2(high.x, high.y), make_float2(high.z, high.w)};
#pragma unroll
        for (int m = 0; m < 4; ++m) {
          const float2 weight = tap[pilot * TAP_STRIDE + column + 16 * m + 1 - comb];
#pragma unroll
          for (int row = 0; row < 4; ++row) add_product(sum[row][m], from[row], weight);
        }
      }

      const int even_layer = ue.code_layer[code][0], odd_layer = ue.code_layer[code][1];
      const int layer = half ? odd_layer : even_layer;
      const int first_rx = (group % groups_of_code) * (4 / padded);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int offset = column + 16 * m;
        const bool is_inside = first_target + offset < ue.n_subcarriers;
        const bool is_pilot = is_inside && half == 0 && (offset & 1) == comb;
        const int pilot = (lead + offset) >> 1;
        float2 h[4];
#pragma unroll
        for (int row = 0; row < 4; ++row) {
          const float2 own = sum[row][m], other = swap_halves(own);
          // Lower half: E + O; upper half, which holds O: E - O.
          h[row] = half ? make_float2(other.x - own.x, other.y - own.y)
                        : make_float2(own.x + other.x, own.y + other.y);
          if (is_pilot) {
            const bool is_even = (pilot & 1) == 0;
            const float2 minus = make_float2(own.x - other.x, own.y - other.y);
            float2 rebuilt = make_float2(0.0f, 0.0f);
            if (even_layer >= 0) rebuilt = h[row];
            if (odd_layer >= 0) {
              rebuilt.x += is_even ? minus.x : -minus.x;
              rebuilt.y += is_even ? minus.y : -minus.y;
            }
            const float2 seen = raw[pilot * ROW_STRIDE + 4 * warp + row];
            const float x = seen.x - rebuilt.x, y = seen.y - rebuilt.y;
            residual += x * x + y * y;
          }
        }
        if (!is_inside || layer < 0) {
#pragma unroll
          for (int row = 0; row < 4; ++row) h[row] = make_float2(0.0f, 0.0f);
        }
        int pair = 0;
#pragma unroll
        for (int row = 0; row < 4; ++row) {
          power[row] += h[row].x * h[row].x + h[row].y * h[row].y;
#pragma unroll
          for (int later = row + 1; later < 4; ++later, ++pair) {
            product[pair][0] += h[row].x * h[later].x + h[row].y * h[later].y;
            product[pair][1] += h[row].x * h[later].y - h[row].y * h[later].x;
          }
          const int position = row % padded, rx = first_rx + row / padded;
          if (is_inside && layer >= 0 && position < ue.n_positions && rx < ue.n_rx)
            channel[channel_index(ue, position, rx, first_target + offset) + layer] =
                __floats2half2_rn(h[row].x, h[row].y);
        }
      }
    }
  }

  float own[PARTIALS] = {};
#pragma unroll
  for (int row = 0; row < 4; ++row) own[row] = power[row];
#pragma unroll
  for (int pair = 0; pair < MAX_PAIRS; ++pair) {
    own[4 + 2 * pair] = product[pair][0];
    own[5 + 2 * pair] = product[pair][1];
  }
  own[16] = residual;
#pragma unroll
  for (int i = 0; i < 17; ++i) {
    float value = own[i];
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(0xffffffffu, value, step);
    if ((thread & 31) == 0) sums[warp][i] = value;
  }
  __syncthreads();
  if (thread < 17) {
    float total = 0.0f;
    for (int i = 0; i < WARPS; ++i) total += sums[i][thread];
    partial[(blockIdx.y * gridDim.x + blockIdx.x) * PARTIALS + thread] = total;
  }
}

// Adds up the blocks' sums in their order. grid: (UEs); block: 32.
//   partial  float[UE][tile][20]
//   results  out: power and products by position, noise; clears `is_bad`
extern "C" __global__ void __launch_bounds__(32)
finish_estimates(const Ue* ues, const float* partial, UeResult* results, int n_tiles) {
  __shared__ float total[PARTIALS];
  const Ue& ue = ues[blockIdx.x];
  if (ue.n_subcarriers == 0) return;
  const int used = (ue.n_subcarriers + TILE - 1) / TILE;
  if (threadIdx.x < 17) {
    const float* of_tile = partial + blockIdx.x * n_tiles * PARTIALS + threadIdx.x;
    float sum = 0.0f;
#pragma unroll 8
    for (int tile = 0; tile < used; ++tile) sum += of_tile[tile * PARTIALS];
    total[threadIdx.x] = sum;
  }
  __syncwarp();
  if (threadIdx.x != 0) return;

  UeResult& result = results[blockIdx.x];
  const float per_entry = 1.0f / (float(ue.n_subcarriers) * ue.n_rx * ue.n_layers);
  const float* power = total;
  const float* product = total + 4;
  float by_position[MAX_POSITIONS] = {}, by_pair[MAX_PAIRS][2] = {};
  if (ue.n_positions == 1) {
    by_position[0] = power[0] + power[1] + power[2] + power[3];
  } else if (ue.n_positions == 2) {
    // Rows 0 and 1 are one antenna's positions, rows 2 and 3 another's; pair 5 is (2, 3).
    by_position[0] = power[0] + power[2];
    by_position[1] = power[1] + power[3];
    by_pair[0][0] = product[0] + product[10];
    by_pair[0][1] = product[1] + product[11];
  } else {
    for (int i = 0; i < MAX_POSITIONS; ++i) by_position[i] = power[i];
    for (int i = 0; i < 2 * MAX_PAIRS; ++i) by_pair[i / 2][i % 2] = product[i];
  }
  for (int i = 0; i < MAX_POSITIONS; ++i) result.position_power[i] = by_position[i] * per_entry;
  for (int i = 0; i < MAX_PAIRS; ++i) {
    result.product[i][0] = by_pair[i][0] * per_entry;
    result.product[i][1] = by_pair[i][1] * per_entry;
  }
  const float n_residuals =
      0.5f * ue.n_subcarriers * float(ue.n_rx) * ue.n_positions * ue.n_codes;
  float residual_part = 0.0f;
  for (int code = 0; code < ue.n_codes; ++code) residual_part += ue.residual_part[code];
  const float measured =
      total[16] / n_residuals * ue.estimate_gain * ue.n_codes / residual_part;
  const float noise_var = ue.noise_var < 0.0f ? measured : ue.noise_var;
  const bool is_good = is_finite(measured);
  result.measured_noise_var = measured;
  // With noise this strong every LLR is 0.
  result.noise_var = is_good ? fmaxf(noise_var, 1e-12f) : 1e30f;
  result.is_bad = !is_good;
}
