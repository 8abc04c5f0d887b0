// Channel estimation from the DM-RS: least squares at the pilots, Wiener filter in frequency.
//
// A block filters 64 subcarriers of one UE from the window of 64 pilots around them. Two layers of
// one code differ in the alternating cover alone, so the filter's sum over even pilots, E, and over
// odd ones, O, give both: E + O and E - O, for the price of one. A warp takes four rows (antennas
// and DM-RS positions of a code); its lower half sums E, its upper half O, and they swap.
//
// Bytes: samples of the DM-RS twice (windows overlap), 17 KiB of taps a block (from the L2 cache),
// the estimates once. Operations: 8 * 64 a row and subcarrier; twice 0.27 GFLOP for twenty UEs
// of 273 PRB, 4 antennas, 2 positions, 2 CDM groups.
#include "front_end.cuh"

const int WINDOW = 64;         // pilots
const int TILE = 64;           // subcarriers
const int TABLE_COLUMNS = 132; // of the table of taps: targets from 1 before the first pilot on
const int TAP_STRIDE = 68;     // what a tile and both combs need, in fours
const int ROW_STRIDE = 18;     // 16 rows, and no more than two of 16 lanes in one bank
const int THREADS = 128;
const int WARPS = THREADS / 32;
const int PARTIALS = 20;       // sums of a block: 4 powers, 6 products, residual; padded

__device__ __forceinline__ float2 swap_halves(float2 value) {
  return make_float2(__shfl_xor_sync(0xffffffffu, value.x, 16),
                     __shfl_xor_sync(0xffffffffu, value.y, 16));
}

// One antenna and DM-RS position of a code.
struct alignas(16) Row {
  int samples;  // before its first pilot's, or -1: there is no such row
  int words;    // before its Gold bits
  int channel;  // values before its channel estimates
  int sign;     // cover of the second symbol
};

// A group of four rows holds four antennas at one position, two at two, or one at up to four; the
// groups of a code follow each other.
__device__ __forceinline__ Row row_of(const Ue& ue, int group, int slot, int set) {
  const int padded = ue.n_positions > 2 ? 4 : ue.n_positions;
  const int groups_of_code = (ue.n_rx * padded + 3) / 4;
  const int code = group / groups_of_code, position = slot % padded;
  const int rx = (group % groups_of_code) * (4 / padded) + slot / padded;
  if (code >= ue.n_codes || ue.code_filter[code] != set || rx >= ue.n_rx ||
      position >= ue.n_positions)
    return {-1, 0, 0, 0};
  return {pilot_samples(ue, ue.code_comb[code], position, rx), pilot_words(ue, position),
          int(channel_index(ue, position, rx, 0)), ue.code_sign[code]};
}

// Sums that a block hands on.
struct Sums {
  float power[4], product[MAX_PAIRS][2], residual;
};

struct Shared {
  Ue ue;
  Row row[4 * WARPS];
  alignas(16) float2 tap[WINDOW * TAP_STRIDE];
  alignas(16) float2 raw[WINDOW * ROW_STRIDE];
  float sums[WARPS][PARTIALS];
};

// Which part of the allocation a block works on.
struct Tile {
  int first_target, first_pilot, lead, n_pilots;
};

// The taps of a tile's targets and of the one before. `lead` is a multiple of 4, so that four taps
// are one load.
__device__ __forceinline__ void load_taps(Shared& shared, const __half2* taps, int set, int lead) {
  taps += set * WINDOW * TABLE_COLUMNS + lead;
  float4* to = reinterpret_cast<float4*>(shared.tap);
#pragma unroll 3
  for (int i = threadIdx.x; i < WINDOW * (TAP_STRIDE / 4); i += THREADS) {
    const int pilot = i / (TAP_STRIDE / 4), column = 4 * (i % (TAP_STRIDE / 4));
    uint4 four = make_uint4(0, 0, 0, 0);
    if (lead + column < TABLE_COLUMNS)
      four = *reinterpret_cast<const uint4*>(taps + pilot * TABLE_COLUMNS + column);
    const float2 a = unpack(four.x), b = unpack(four.y), c = unpack(four.z), d = unpack(four.w);
    to[2 * i] = make_float4(a.x, a.y, b.x, b.y);
    to[2 * i + 1] = make_float4(c.x, c.y, d.x, d.y);
  }
}

// A thread loads one pilot of the window for every second row; all loads are under way before the
// first is waited for.
__device__ __forceinline__ void load_rows(Shared& shared, const unsigned* samples,
                                          const unsigned* pilots, const Tile& tile) {
  constexpr int OWN = 4 * WARPS * WINDOW / THREADS, STEP = THREADS / WINDOW;
  const Ue& ue = shared.ue;
  const int pilot = threadIdx.x % WINDOW, first = threadIdx.x / WINDOW;
  const int at = tile.first_pilot + pilot, bit = pilot_bit(ue, at);
  const bool is_inside = at < tile.n_pilots;
  unsigned sample[OWN], word[OWN];
#pragma unroll
  for (int i = 0; i < OWN; ++i) {
    const Row row = shared.row[first + i * STEP];
    const bool is_there = is_inside && row.samples >= 0;
    sample[i] = is_there ? samples[row.samples + 2 * at] : 0u;
    word[i] = is_there ? pilots[row.words + (bit >> 5)] : 0u;
  }
  float2 value[OWN];
#pragma unroll
  for (int i = 0; i < OWN; ++i) value[i] = turn_back(unpack(sample[i]), word[i] >> (bit & 31));
  if (ue.dmrs_length == 2) {
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      const Row row = shared.row[first + i * STEP];
      const bool is_there = is_inside && row.samples >= 0;
      sample[i] = is_there ? samples[row.samples + ue.grid_width + 2 * at] : 0u;
      word[i] = is_there ? pilots[row.words + ue.pilot_stride + (bit >> 5)] : 0u;
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
      const float2 second = turn_back(unpack(sample[i]), word[i] >> (bit & 31));
      const float sign = float(shared.row[first + i * STEP].sign);
      value[i] = make_float2(value[i].x + sign * second.x, value[i].y + sign * second.y);
    }
  }
#pragma unroll
  for (int i = 0; i < OWN; ++i)
    shared.raw[pilot * ROW_STRIDE + first + i * STEP] =
        make_float2(value[i].x * ue.pilot_scale, value[i].y * ue.pilot_scale);
}

// Half of the filter's sum for a warp's four rows: over even pilots, or over odd ones.
__device__ __forceinline__ void filter(float2 (&sum)[4][4], const Shared& shared, int warp,
                                       int half, int column) {
#pragma unroll 4
  for (int pilot = half; pilot < WINDOW; pilot += 2) {
    const float4* rows =
        reinterpret_cast<const float4*>(shared.raw + pilot * ROW_STRIDE + 4 * warp);
    const float4 low = rows[0], high = rows[1];
    const float2 from[4] = {make_float2(low.x, low.y), make_float2(low.z, low.w),
                            make_float2(high.x, high.y), make_float2(high.z, high.w)};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float2 weight = shared.tap[pilot * TAP_STRIDE + column + 16 * m];
#pragma unroll
      for (int row = 0; row < 4; ++row) add_product(sum[row][m], from[row], weight);
    }
  }
}

// Combines the halves, stores both layers' channels and adds to the sums.
__device__ __forceinline__ void store(Sums& sums, const float2 (&sum)[4][4], const Shared& shared,
                                      __half2* channel, const Tile& tile, int code, int warp,
                                      int half, int column) {
  const Ue& ue = shared.ue;
  const int even_layer = ue.code_layer[code][0], odd_layer = ue.code_layer[code][1];
  const int layer = half ? odd_layer : even_layer, stride = layer_stride(ue);
  const float has_even = even_layer >= 0 ? 1.0f : 0.0f, has_odd = odd_layer >= 0 ? 1.0f : 0.0f;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const int offset = column + 16 * m, target = tile.first_target + offset;
    const bool is_inside = target < ue.n_subcarriers;
    const bool is_pilot = is_inside && half == 0 && (offset & 1) == ue.code_comb[code];
    const int pilot = (tile.lead + offset) >> 1;
    // What the pilot saw of the layer with the alternating cover.
    const float turn = pilot & 1 ? -has_odd : has_odd;
    float2 h[4], others[4];
#pragma unroll
    for (int row = 0; row < 4; ++row) others[row] = swap_halves(sum[row][m]);
#pragma unroll
    for (int row = 0; row < 4; ++row) {
      const float2 own = sum[row][m], other = others[row];
      // Lower half: E + O; upper half, which holds O: E - O.
      h[row] = half ? make_float2(other.x - own.x, other.y - own.y)
                    : make_float2(own.x + other.x, own.y + other.y);
      if (is_pilot) {
        const float2 seen = shared.raw[pilot * ROW_STRIDE + 4 * warp + row];
        const float x = seen.x - has_even * h[row].x - turn * (own.x - other.x);
        const float y = seen.y - has_even * h[row].y - turn * (own.y - other.y);
        sums.residual += x * x + y * y;
      }
    }
    if (!is_inside || layer < 0) continue;
#pragma unroll
    for (int row = 0, pair = 0; row < 4; ++row) {
      sums.power[row] += h[row].x * h[row].x + h[row].y * h[row].y;
#pragma unroll
      for (int later = row + 1; later < 4; ++later, ++pair) {
        sums.product[pair][0] += h[row].x * h[later].x + h[row].y * h[later].y;
        sums.product[pair][1] += h[row].x * h[later].y - h[row].y * h[later].x;
      }
      const Row to = shared.row[4 * warp + row];
      if (to.samples >= 0)
        channel[to.channel + target * stride + layer] = __floats2half2_rn(h[row].x, h[row].y);
    }
  }
}

// Adds up a block's sums, in an order that is always the same.
__device__ __forceinline__ void hand_on(Shared& shared, float* partial, const Sums& sums) {
  float own[17];
#pragma unroll
  for (int row = 0; row < 4; ++row) own[row] = sums.power[row];
#pragma unroll
  for (int pair = 0; pair < MAX_PAIRS; ++pair) {
    own[4 + 2 * pair] = sums.product[pair][0];
    own[5 + 2 * pair] = sums.product[pair][1];
  }
  own[16] = sums.residual;
#pragma unroll
  for (int i = 0; i < 17; ++i) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1)
      own[i] += __shfl_xor_sync(0xffffffffu, own[i], step);
    if ((threadIdx.x & 31) == 0) shared.sums[threadIdx.x >> 5][i] = own[i];
  }
  __syncthreads();
  if (threadIdx.x < 17) {
    float total = 0.0f;
    for (int i = 0; i < WARPS; ++i) total += shared.sums[i][threadIdx.x];
    partial[threadIdx.x] = total;
  }
}

// grid: (tiles of the largest UE, UEs); block: 128.
//   samples  half2[...] as words, the cells' resource grids
//   pilots   packed Gold bits, two a pilot
//   taps     half2[filter set][64 pilots][132 columns]
//   channel  half2[...], out: [position][rx][subcarrier][layer] of each UE
//   partial  float[UE][tile][20], out
extern "C" __global__ void __launch_bounds__(THREADS, 4)
estimate(const Ue* ues, const unsigned* samples, const unsigned* pilots, const __half2* taps,
         __half2* channel, float* partial) {
  __shared__ Shared shared;
  const Ue& ue = shared.ue;
  const int first_target = blockIdx.x * TILE, thread = threadIdx.x;
  if (first_target >= ues[blockIdx.y].n_subcarriers) return;
  fetch(&shared.ue, ues + blockIdx.y, thread, THREADS);
  __syncthreads();

  const int n_pilots = ue.n_subcarriers >> 1;
  const int first_pilot = max(0, min(first_target / 2 - 16, n_pilots - WINDOW));
  const Tile tile = {first_target, first_pilot, first_target - 2 * first_pilot, n_pilots};
  const int warp = thread >> 5, half = (thread >> 4) & 1, column = thread & 15;
  const int padded = ue.n_positions > 2 ? 4 : ue.n_positions;
  const int groups_of_code = (ue.n_rx * padded + 3) / 4;
  const int n_groups = ue.n_codes * groups_of_code;
  Sums sums = {};

  for (int of_set = 0; of_set < ue.n_codes; ++of_set) {
    // One pass for each filter set in use; most UEs have one.
    const int set = ue.code_filter[of_set];
    bool is_done = false;
    for (int code = 0; code < of_set; ++code) is_done |= ue.code_filter[code] == set;
    if (is_done) continue;
    for (int first_group = 0; first_group < n_groups; first_group += WARPS) {
      __syncthreads();
      if (first_group == 0) load_taps(shared, taps, set, tile.lead);
      if (thread < 4 * WARPS)
        shared.row[thread] = row_of(ue, first_group + thread / 4, thread % 4, set);
      __syncthreads();
      load_rows(shared, samples, pilots, tile);
      __syncthreads();
      const int code = (first_group + warp) / groups_of_code;
      // The whole warp leaves or stays; barriers are outside.
      if (code >= ue.n_codes || ue.code_filter[code] != set) continue;
      float2 sum[4][4] = {};  // [row][column]
      filter(sum, shared, warp, half, column + 1 - ue.code_comb[code]);
      store(sums, sum, shared, channel, tile, code, warp, half, column);
    }
  }
  hand_on(shared, partial + (blockIdx.y * gridDim.x + blockIdx.x) * PARTIALS, sums);
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
