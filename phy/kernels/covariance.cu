// MMSE-IRC: the covariance of what the DM-RS leaves unexplained, its Cholesky factor, and the
// channel whitened by it. A block takes one subband (about 8 PRB) of one UE.
//
// The arithmetic is that of phy/receiver/covariance.py, over the mean noise, so that whitened
// values keep the size they had and fit half floats; the equaliser divides by that noise.
// Bytes: samples of the DM-RS and the channel once, the channel written once. Operations: a few
// hundred a resource element of the DM-RS.
#include "front_end.cuh"

const int THREADS = 128;
const int CHUNK = 128;  // samples that are worked on together, one a thread

// Which residual a sample is: of a code in use, or of a CDM group that carries neither data nor
// DM-RS of ours, where everything is noise.
struct Source {
  int code, comb;
};

__device__ __forceinline__ int n_sources(const Ue& ue) {
  unsigned combs = 0;
  for (int code = 0; code < ue.n_codes; ++code) combs |= 1u << ue.code_comb[code];
  return ue.n_codes + ue.n_groups_without_data - __popc(combs);
}

__device__ __forceinline__ Source source_of(const Ue& ue, int index) {
  if (index < ue.n_codes) return {index, ue.code_comb[index]};
  // Of two combs, the one that no code uses.
  return {-1, 1 - ue.code_comb[0]};
}

// The residual at one pilot, on all antennas, as strong as the noise on a resource element.
template <int RX>
__device__ __forceinline__ void residual_at(float2* out, int stride, const Ue& ue,
                                            const __half2* grid, const unsigned* pilots,
                                            const __half2* channel, Source source, int position,
                                            int pilot) {
  const int sign = source.code < 0 ? 1 : ue.code_sign[source.code];
  const float part = source.code < 0 ? 1.0f : ue.residual_part[source.code];
  const float scale = sqrtf(ue.estimate_gain / part);
  for (int rx = 0; rx < ue.n_rx; ++rx) {
    float2 value = least_squares(ue, grid, pilots, source.comb, sign, position, rx, pilot);
    if (source.code >= 0) {
      const __half2* h = channel + channel_index(ue, position, rx, 2 * pilot + source.comb);
      for (int cover = 0; cover < 2; ++cover) {
        const int layer = ue.code_layer[source.code][cover];
        if (layer < 0) continue;
        const float2 seen = __half22float2(h[layer]);
        const float turn = cover && (pilot & 1) ? -1.0f : 1.0f;
        value.x -= turn * seen.x;
        value.y -= turn * seen.y;
      }
    }
    out[rx * stride] = make_float2(value.x * scale, value.y * scale);
  }
}

template <int RX>
struct Shared {
  Ue ue;
  float2 residual[RX][CHUNK + 1];
  float2 matrix[RX][RX];   // covariance, then its factor L below and on the diagonal
  float2 inverse[RX][RX];  // L^-1, zeros above the diagonal
  float2 split[THREADS];
  float noise, load;
};

// The covariance's lower triangle, not yet divided by the number of samples.
template <int RX>
__device__ __forceinline__ void correlate(Shared<RX>& shared, const __half2* grid,
                                          const unsigned* pilots, const __half2* channel,
                                          int first_pilot, int n_pilots) {
  constexpr int PAIRS = RX * (RX + 1) / 2;
  constexpr int SPLITS = PAIRS < THREADS ? THREADS / PAIRS : 1;
  constexpr int OWN = (PAIRS + THREADS - 1) / THREADS;
  const Ue& ue = shared.ue;
  const int thread = threadIdx.x, split = thread / PAIRS;
  const int n_samples = n_sources(ue) * ue.n_positions * n_pilots;
  float2 sum[OWN] = {};
  int row[OWN], column[OWN];
#pragma unroll
  for (int own = 0; own < OWN; ++own) {
    int rest = thread % PAIRS + own * THREADS;
    row[own] = 0;
    while (rest > row[own]) rest -= ++row[own];
    column[own] = rest;
  }
  for (int first = 0; first < n_samples; first += CHUNK) {
    const int sample = first + thread;
    if (sample < n_samples) {
      const int pilot = first_pilot + sample % n_pilots, rest = sample / n_pilots;
      residual_at<RX>(&shared.residual[0][thread], CHUNK + 1, ue, grid, pilots, channel,
                      source_of(ue, rest / ue.n_positions), rest % ue.n_positions, pilot);
    }
    __syncthreads();
    const int n_here = min(CHUNK, n_samples - first);
    if (split < SPLITS) {
#pragma unroll
      for (int own = 0; own < OWN; ++own) {
        if (row[own] >= ue.n_rx) continue;
        for (int i = split; i < n_here; i += SPLITS)
          add_conjugate_product(sum[own], shared.residual[column[own]][i],
                                shared.residual[row[own]][i]);
      }
    }
    __syncthreads();
  }
  if constexpr (OWN == 1) {
    shared.split[thread] = sum[0];
    __syncthreads();
    if (thread < PAIRS && row[0] < ue.n_rx) {
      for (int i = 1; i < SPLITS; ++i) {
        sum[0].x += shared.split[thread + i * PAIRS].x;
        sum[0].y += shared.split[thread + i * PAIRS].y;
      }
      shared.matrix[row[0]][column[0]] = sum[0];
    }
  } else {
#pragma unroll
    for (int own = 0; own < OWN; ++own)
      if (thread + own * THREADS < PAIRS && row[own] < ue.n_rx)
        shared.matrix[row[own]][column[own]] = sum[own];
  }
  __syncthreads();
}

// Divides by samples and mean noise, loads the diagonal, and inverts the Cholesky factor.
template <int RX>
__device__ __forceinline__ void factorise(Shared<RX>& shared, int n_samples) {
  const int n = shared.ue.n_rx, thread = threadIdx.x;
  if (thread == 0) {
    float trace = 0.0f;
    for (int i = 0; i < n; ++i) trace += shared.matrix[i][i].x;
    // The mean of the diagonal, and what is added to it for the sample covariance's own error.
    shared.noise = fmaxf(trace / (float(n) * n_samples), 1e-12f);
    shared.load = float(n) / n_samples;
  }
  __syncthreads();
  const float scale = 1.0f / (shared.noise * n_samples);
  for (int i = thread; i < RX * RX; i += THREADS) {
    const int row = i / RX, column = i % RX;
    if (row < n && column <= row) {
      shared.matrix[row][column].x *= scale;
      shared.matrix[row][column].y *= scale;
      if (column == row) shared.matrix[row][column] = make_float2(
          shared.matrix[row][column].x + shared.load, 0.0f);
    }
    shared.inverse[row][column] = make_float2(row < n && row == column ? 1.0f : 0.0f, 0.0f);
  }
  __syncthreads();
  // Column by column: L's, and the elimination of the identity along with it.
  for (int k = 0; k < n; ++k) {
    const float inverse = rsqrtf(fmaxf(shared.matrix[k][k].x, 1e-6f));
    __syncthreads();
    for (int i = thread; i < 2 * n; i += THREADS) {
      float2& value = i < n ? shared.matrix[i][k] : shared.inverse[k][i - n];
      // Above the diagonal nothing is stored.
      if (i < n && i < k) continue;
      value.x *= inverse;
      value.y *= inverse;
    }
    __syncthreads();
    for (int i = thread; i < 2 * n * n; i += THREADS) {
      const int row = i / n % n, column = i % n;
      if (row <= k) continue;
      const float2 factor = shared.matrix[row][k];
      const float2 minus = make_float2(-factor.x, -factor.y);
      if (i < n * n) {
        if (column > k && column <= row)
          add_conjugate_product(shared.matrix[row][column], shared.matrix[column][k], minus);
      } else if (column <= k) {
        add_product(shared.inverse[row][column], minus, shared.inverse[k][column]);
      }
    }
    __syncthreads();
  }
}

template <int RX>
__device__ __forceinline__ void whiten(const Ue* ues, const __half2* grid, const unsigned* pilots,
                                       __half2* channel, float* whitening) {
  __shared__ Shared<RX> shared;
  const Ue& ue = shared.ue;
  const int thread = threadIdx.x, subband = blockIdx.x, n_rx = ues[blockIdx.y].n_rx;
  if (ues[blockIdx.y].n_subcarriers == 0 || !ues[blockIdx.y].is_irc) return;
  if (n_rx > RX || (RX > 2 && 2 * n_rx <= RX) || subband >= subbands(ues[blockIdx.y])) return;
  fetch(&shared.ue, ues + blockIdx.y, thread, THREADS);
  __syncthreads();
  const int first = first_pilot_of(ue, subband);
  const int n_pilots = first_pilot_of(ue, subband + 1) - first;
  correlate<RX>(shared, grid, pilots, channel, first, n_pilots);
  factorise<RX>(shared, n_sources(ue) * ue.n_positions * n_pilots);

  float* out = whitening + (blockIdx.y * MAX_SUBBANDS + subband) * WHITENING_STRIDE;
  if (thread == 0) out[0] = 1.0f / shared.noise;
  for (int i = thread; i < ue.n_rx * ue.n_rx; i += THREADS) {
    const int row = i / ue.n_rx, column = i % ue.n_rx;
    if (column > row) continue;
    float* to = out + 2 + 2 * (row * (row + 1) / 2 + column);
    to[0] = shared.inverse[row][column].x;
    to[1] = shared.inverse[row][column].y;
  }
  // A thread whitens what one layer has on one subcarrier and position, on all antennas.
  const int of_position = 2 * n_pilots * layer_stride(ue);
  for (int i = thread; i < of_position * ue.n_positions; i += THREADS) {
    const unsigned from = channel_index(ue, i / of_position, 0, 2 * first) + i % of_position;
    const unsigned to_rx = unsigned(ue.n_subcarriers * layer_stride(ue));
    float2 h[RX];
#pragma unroll
    for (int rx = 0; rx < RX; ++rx)
      h[rx] = rx < ue.n_rx ? __half22float2(channel[from + rx * to_rx]) : make_float2(0.0f, 0.0f);
    // Not unrolled: the whole triangle does not fit the registers. Above its diagonal are zeros.
#pragma unroll 1
    for (int row = 0; row < ue.n_rx; ++row) {
      float2 white = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int column = 0; column < RX; ++column)
        add_product(white, shared.inverse[row][column], h[column]);
      channel[from + row * to_rx] = __floats2half2_rn(white.x, white.y);
    }
  }
}

// grid: (34 subbands, UEs); block: 128. One launch for each number of antennas, as equalise.
//   channel    half2[...], whitened in place
//   whitening  float[UE][34][274], out: 1 / noise, unused, rows of the lower triangle of L^-1
#define WHITEN(RX)                                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS)                                           \
  whiten_##RX(const Ue* ues, const __half2* grid, const unsigned* pilots, __half2* channel,       \
              float* whitening) {                                                                 \
    whiten<RX>(ues, grid, pilots, channel, whitening);                                            \
  }

#if ANTENNAS & 2
WHITEN(2)
#endif
#if ANTENNAS & 4
WHITEN(4)
#endif
#if ANTENNAS & 8
WHITEN(8)
#endif
#if ANTENNAS & 16
WHITEN(16)
#endif
