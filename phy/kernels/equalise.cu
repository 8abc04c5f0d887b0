// From channel estimates to soft bits: interpolation in time, unbiased MMSE, max-log demapper,
// descrambling, int8. One thread takes one subcarrier and a few symbols of it.
//
// The arithmetic is that of phy/receiver/equaliser.py and phy/nr/modulation_kernel.py. Bytes: the
// samples once, the channel once for every few symbols (from the L2 cache), a byte a coded bit.
// Operations, 4 antennas and layers, 2 DM-RS positions, 64QAM: about 1,000 a resource element.
#include "front_end.cuh"

const int THREADS = 128;
const int MAX_BYTES = 32;  // soft bits of a resource element: 4 layers of 256QAM

// One load for all layers of a subcarrier.
template <int LAYERS>
__device__ __forceinline__ void load_layers(float2 (&h)[LAYERS], const __half2* from) {
  if constexpr (LAYERS == 1) {
    h[0] = __half22float2(from[0]);
  } else {
    constexpr int WORDS = LAYERS == 2 ? 2 : 4;
    struct alignas(4 * WORDS) Words { __half2 value[WORDS]; };
    const Words words = *reinterpret_cast<const Words*>(from);
#pragma unroll
    for (int layer = 0; layer < LAYERS; ++layer) h[layer] = __half22float2(words.value[layer]);
  }
}

// H^H H, lower triangle, and H^H y.
template <int LAYERS>
struct Normal {
  float diagonal[LAYERS];
  float2 lower[LAYERS * (LAYERS - 1) / 2 + 1];
  float2 matched[LAYERS];
};

__device__ __forceinline__ int below(int i, int j) { return i * (i - 1) / 2 + j; }

// Interpolates the channel to the symbol and gathers the normal equations, antenna by antenna.
template <int RX, int LAYERS>
__device__ __forceinline__ void gather(Normal<LAYERS>& normal, const Ue& ue,
                                       const __half2* channel, const float2 (&y)[RX],
                                       int subcarrier, int symbol) {
#pragma unroll
  for (int i = 0; i < LAYERS; ++i) {
    normal.diagonal[i] = 0.0f;
    normal.matched[i] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int j = 0; j < i; ++j) normal.lower[below(i, j)] = make_float2(0.0f, 0.0f);
  }
  const unsigned to_rx = unsigned(ue.n_subcarriers * layer_stride(ue));
  const unsigned to_position = to_rx * ue.n_rx;
  const unsigned first = channel_index(ue, 0, 0, subcarrier);
#pragma unroll
  for (int rx = 0; rx < RX; ++rx) {
    if (rx >= ue.n_rx) break;
    float2 h[LAYERS] = {};
#pragma unroll 2
    for (int position = 0; position < ue.n_positions; ++position) {
      float2 seen[LAYERS];
      load_layers<LAYERS>(seen, channel + (first + position * to_position + rx * to_rx));
      const float2 weight = make_float2(ue.time_weights[symbol][position][0],
                                        ue.time_weights[symbol][position][1]);
#pragma unroll
      for (int layer = 0; layer < LAYERS; ++layer) add_product(h[layer], weight, seen[layer]);
    }
#pragma unroll
    for (int i = 0; i < LAYERS; ++i) {
      normal.diagonal[i] = fmaf(h[i].x, h[i].x, fmaf(h[i].y, h[i].y, normal.diagonal[i]));
      add_conjugate_product(normal.matched[i], h[i], y[rx]);
#pragma unroll
      for (int j = 0; j < i; ++j) add_conjugate_product(normal.lower[below(i, j)], h[i], h[j]);
    }
  }
}

// Unbiased MMSE by G = H^H H / noise + I = L D L^H: symbols, and the variance of what disturbs
// them.
template <int LAYERS>
__device__ __forceinline__ void solve(float2 (&symbol)[LAYERS], float (&noise)[LAYERS],
                                      const Normal<LAYERS>& normal, float inverse_noise) {
  float2 lower[LAYERS * (LAYERS - 1) / 2 + 1], scaled[LAYERS * (LAYERS - 1) / 2 + 1];
  float inverse_d[LAYERS];
#pragma unroll
  for (int i = 0; i < LAYERS; ++i) {
    const float own = fmaf(normal.diagonal[i], inverse_noise, 1.0f);
    float pivot = own;
#pragma unroll
    for (int j = 0; j < i; ++j) {
      float2 value = normal.lower[below(i, j)];
      value.x *= inverse_noise;
      value.y *= inverse_noise;
#pragma unroll
      for (int k = 0; k < j; ++k) {
        const float2 a = scaled[below(i, k)], b = lower[below(j, k)];
        add_conjugate_product(value, b, make_float2(-a.x, -a.y));
      }
      scaled[below(i, j)] = value;
      lower[below(i, j)] = make_float2(value.x * inverse_d[j], value.y * inverse_d[j]);
      pivot -= value.x * lower[below(i, j)].x + value.y * lower[below(i, j)].y;
    }
    // Rounding must not make a pivot small or negative.
    inverse_d[i] = __fdividef(1.0f, fmaxf(pivot, 1e-6f * own));
  }
  // M = L^-1 takes L's place; its diagonal is 1.
#pragma unroll
  for (int i = 1; i < LAYERS; ++i) {
    float2 row[LAYERS];
#pragma unroll
    for (int j = 0; j < i; ++j) {
      float2 value = lower[below(i, j)];
#pragma unroll
      for (int k = j + 1; k < i; ++k) add_product(value, lower[below(i, k)], lower[below(k, j)]);
      row[j] = make_float2(-value.x, -value.y);
    }
    // The row was needed as it was until all its columns were found.
#pragma unroll
    for (int j = 0; j < i; ++j) lower[below(i, j)] = row[j];
  }
  float2 rotated[LAYERS];
#pragma unroll
  for (int i = 0; i < LAYERS; ++i) {
    float2 value = normal.matched[i];
#pragma unroll
    for (int j = 0; j < i; ++j) add_product(value, lower[below(i, j)], normal.matched[j]);
    const float factor = inverse_d[i] * inverse_noise;
    rotated[i] = make_float2(value.x * factor, value.y * factor);
  }
#pragma unroll
  for (int i = 0; i < LAYERS; ++i) {
    float2 value = rotated[i];
    float error = inverse_d[i];
#pragma unroll
    for (int k = i + 1; k < LAYERS; ++k) {
      const float2 entry = lower[below(k, i)];
      add_conjugate_product(value, entry, rotated[k]);
      error = fmaf(fmaf(entry.x, entry.x, entry.y * entry.y), inverse_d[k], error);
    }
    error = fminf(error, 1.0f - 1e-6f);
    const float unbias = __fdividef(1.0f, 1.0f - error);
    symbol[i] = make_float2(value.x * unbias, value.y * unbias);
    noise[i] = error * unbias;
  }
}

// The LLRs of one dimension with BITS bits, in steps; `value` in units of the smallest level. The
// first bit is the sign, and 2^(BITS - 1) - |value| is a dimension with one bit less.
template <int BITS>
__device__ __forceinline__ void fold(float* llr, float value, float gain) {
#pragma unroll
  for (int bit = 0; bit < BITS; ++bit) {
    const int n_levels = 1 << (BITS - 1 - bit);
    const float magnitude = fabsf(value);
    float score = magnitude;
#pragma unroll
    for (int k = 2; k <= n_levels; ++k)
      score = fmaxf(score, fmaf(float(k), magnitude, -float(k * (k - 1))));
    llr[2 * bit] = copysignf(score, value) * gain;
    value = float(n_levels) - magnitude;
  }
}

// Rounds to the nearest of -127 to 127; the low byte of the result holds it.
__device__ __forceinline__ unsigned to_byte(float llr) {
  return __float_as_uint(fminf(fmaxf(llr, -127.0f), 127.0f) + 12582912.0f);
}

// Demaps one resource element and leaves its soft bits, in the code word's order, at `out`.
template <int LAYERS, int ORDER>
__device__ __forceinline__ void demap(unsigned char* out, const float2 (&symbol)[LAYERS],
                                      const float (&noise)[LAYERS], float scale, unsigned flips) {
  constexpr int N = LAYERS * ORDER, N_LEVELS = 1 << (ORDER / 2);
  constexpr float LEAST_SQUARED = 1.5f / float(N_LEVELS * N_LEVELS - 1);
  const float unit = sqrtf(1.0f / LEAST_SQUARED);
  float llr[N];
#pragma unroll
  for (int layer = 0; layer < LAYERS; ++layer) {
    const float gain = __fdividef(4.0f * LEAST_SQUARED * scale, fmaxf(noise[layer], 1e-10f));
    fold<ORDER / 2>(llr + layer * ORDER, symbol[layer].x * unit, gain);
    fold<ORDER / 2>(llr + layer * ORDER + 1, symbol[layer].y * unit, gain);
  }
  unsigned byte[N];
#pragma unroll
  for (int i = 0; i < N; ++i)
    byte[i] = to_byte(__uint_as_float(__float_as_uint(llr[i]) ^ ((flips << (31 - i)) & 1u << 31)));
#pragma unroll
  for (int i = 0; i + 2 <= N; i += 2) {
    const unsigned low = __byte_perm(byte[i], byte[i + 1], 0x0040);
    if constexpr (N % 4 == 0) {
      if (i % 4 == 0)
        *reinterpret_cast<unsigned*>(out + i) = __byte_perm(
            low, __byte_perm(byte[(i + 2) % N], byte[(i + 3) % N], 0x0040), 0x5410);
    } else {
      *reinterpret_cast<unsigned short*>(out + i) = static_cast<unsigned short>(low);
    }
  }
}

struct Sums {
  float noise, capacity;
};

template <int RX, int LAYERS>
__device__ __forceinline__ void equalise_symbols(Sums& sums, const Ue& ue, unsigned char* staged,
                                                 const __half2* grid, const __half2* channel,
                                                 const float* whitening,
                                                 const unsigned* scrambling, signed char* llr,
                                                 UeResult& result, int first, int last) {
  const int lane = threadIdx.x & 31;
  const int subcarrier = blockIdx.x * THREADS + threadIdx.x;
  const int warp_first = subcarrier - lane;
  if (warp_first >= ue.n_subcarriers) return;
  const int n_here = min(32, ue.n_subcarriers - warp_first);
  // Lanes beyond the allocation work on its last subcarrier and store nothing.
  const int own = min(subcarrier, ue.n_subcarriers - 1);
  const int n_bytes = LAYERS * ue.modulation_order;
  const float* subband = whitening + (blockIdx.y * MAX_SUBBANDS + subband_of(ue, own)) *
                                         WHITENING_STRIDE;
  const float inverse_noise = ue.is_irc ? subband[0] : __fdividef(1.0f, result.noise_var);
  const float2* whitener = reinterpret_cast<const float2*>(subband + 2);
  bool is_bad = false;

  for (int i = first; i < last; ++i) {
    const int at = ue.data_symbol[i], step = ue.data_step[i];
    const bool is_active = subcarrier < ue.n_subcarriers && (step == 1 || (own & 1));
    float2 y[RX];
    const __half2* sample = grid + ue.grid_offset + at * ue.grid_width + ue.first_subcarrier + own;
#pragma unroll
    for (int rx = 0; rx < RX; ++rx)
      y[rx] = rx < ue.n_rx ? __half22float2(sample[rx * N_SYMBOLS * ue.grid_width])
                           : make_float2(0.0f, 0.0f);
    if (ue.is_irc) {
#pragma unroll
      for (int row = RX - 1; row >= 0; --row) {
        if (row >= ue.n_rx) continue;
        float2 white = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int j = 0; j <= row; ++j) add_product(white, whitener[row * (row + 1) / 2 + j], y[j]);
        y[row] = white;
      }
    }
    Normal<LAYERS> normal;
    gather<RX, LAYERS>(normal, ue, channel, y, own, at);
    float2 symbol[LAYERS];
    float noise[LAYERS];
    solve<LAYERS>(symbol, noise, normal, inverse_noise);

    float total = 0.0f;
#pragma unroll
    for (int layer = 0; layer < LAYERS; ++layer)
      total += fabsf(symbol[layer].x) + fabsf(symbol[layer].y) + noise[layer];
    const bool is_good = is_finite(total);
#pragma unroll
    for (int layer = 0; layer < LAYERS; ++layer) {
      if (!is_good) {
        symbol[layer] = make_float2(0.0f, 0.0f);
        noise[layer] = 1e10f;
      } else if (is_active) {
        sums.noise += noise[layer];
        sums.capacity += __log2f(1.0f + __fdividef(1.0f, fmaxf(noise[layer], 1e-10f)));
      }
    }
    is_bad |= is_active && !is_good;

    const int element = ue.data_start[i] + (step == 1 ? own : own >> 1);
    const unsigned bit = unsigned(element) * n_bytes;
    const unsigned* word = scrambling + ue.scrambling_offset + (bit >> 5);
    const unsigned flips = __funnelshift_r(word[0], word[1], bit & 31);
    unsigned char* out = staged + (step == 1 ? lane : lane >> 1) * n_bytes;
    if (is_active) {
      switch (ue.modulation_order) {
        case 2: demap<LAYERS, 2>(out, symbol, noise, ue.llr_scale, flips); break;
        case 4: demap<LAYERS, 4>(out, symbol, noise, ue.llr_scale, flips); break;
        case 6: demap<LAYERS, 6>(out, symbol, noise, ue.llr_scale, flips); break;
        default: demap<LAYERS, 8>(out, symbol, noise, ue.llr_scale, flips);
      }
    }
    __syncwarp();
    // The warp's soft bits are one run of bytes; its length and place are multiples of 4.
    const int n_run = n_here / step * n_bytes;
    signed char* to = llr + ue.llr_offset + (ue.data_start[i] + warp_first / step) * n_bytes;
    if (((n_run | int(reinterpret_cast<unsigned long long>(to))) & 7) == 0) {
      for (int word8 = lane; word8 < n_run / 8; word8 += 32)
        reinterpret_cast<uint2*>(to)[word8] = reinterpret_cast<const uint2*>(staged)[word8];
    } else {
      for (int word4 = lane; word4 < n_run / 4; word4 += 32)
        reinterpret_cast<unsigned*>(to)[word4] = reinterpret_cast<const unsigned*>(staged)[word4];
    }
    __syncwarp();
  }
  if (is_bad) result.is_bad = 1;
}

template <int RX>
__device__ __forceinline__ void equalise(const Ue* ues, const __half2* grid,
                                         const __half2* channel, const float* whitening,
                                         const unsigned* scrambling, signed char* llr,
                                         float* partial, UeResult* results,
                                         int symbols_per_block) {
  __shared__ Ue ue;
  __shared__ __align__(16) unsigned char staged[THREADS / 32][32 * MAX_BYTES];
  __shared__ Sums of_warp[THREADS / 32];
  const int n_rx = ues[blockIdx.y].n_rx, first = blockIdx.z * symbols_per_block;
  if (blockIdx.x * THREADS >= ues[blockIdx.y].n_subcarriers) return;
  if (n_rx > RX || (RX > 2 && 2 * n_rx <= RX) || first >= ues[blockIdx.y].n_data_symbols) return;
  fetch(&ue, ues + blockIdx.y, threadIdx.x, THREADS);
  __syncthreads();

  const int last = min(first + symbols_per_block, ue.n_data_symbols), warp = threadIdx.x / 32;
  UeResult& result = results[blockIdx.y];
  Sums sums = {0.0f, 0.0f};
  switch (ue.n_layers) {
    case 1:
      equalise_symbols<RX, 1>(sums, ue, staged[warp], grid, channel, whitening, scrambling, llr,
                              result, first, last);
      break;
    case 2:
      equalise_symbols<RX, 2>(sums, ue, staged[warp], grid, channel, whitening, scrambling, llr,
                              result, first, last);
      break;
    case 3:
      equalise_symbols<RX, 3>(sums, ue, staged[warp], grid, channel, whitening, scrambling, llr,
                              result, first, last);
      break;
    default:
      equalise_symbols<RX, 4>(sums, ue, staged[warp], grid, channel, whitening, scrambling, llr,
                              result, first, last);
  }
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    sums.noise += __shfl_xor_sync(0xffffffffu, sums.noise, step);
    sums.capacity += __shfl_xor_sync(0xffffffffu, sums.capacity, step);
  }
  if ((threadIdx.x & 31) == 0) of_warp[warp] = sums;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < THREADS / 32; ++i) {
      sums.noise += of_warp[i].noise;
      sums.capacity += of_warp[i].capacity;
    }
    float* to = partial + 2 * ((blockIdx.y * gridDim.z + blockIdx.z) * gridDim.x + blockIdx.x);
    to[0] = sums.noise;
    to[1] = sums.capacity;
  }
}

// grid: (128 subcarriers of the largest UE, UEs, groups of symbols); block: 128. One launch for
// each number of antennas that cells of the slot have, rounded up to 2, 4, 8 or 16; UEs with
// another number are passed over.
//   channel     half2[...], the estimates; whitened, for UEs that ask for it
//   whitening   float[UE][34][274]
//   scrambling  packed scrambling sequences, and a word more
//   llr         int8[...], out
//   partial     float[UE][group][block][2], out
#define EQUALISE(RX)                                                                              \
  extern "C" __global__ void __launch_bounds__(THREADS)                                           \
  equalise_##RX(const Ue* ues, const __half2* grid, const __half2* channel,                       \
                const float* whitening, const unsigned* scrambling, signed char* llr,             \
                float* partial, UeResult* results, int symbols_per_block) {                       \
    equalise<RX>(ues, grid, channel, whitening, scrambling, llr, partial, results,                \
                 symbols_per_block);                                                              \
  }

#if ANTENNAS & 2
EQUALISE(2)
#endif
#if ANTENNAS & 4
EQUALISE(4)
#endif
#if ANTENNAS & 8
EQUALISE(8)
#endif
#if ANTENNAS & 16
EQUALISE(16)
#endif

// Adds up the blocks' sums in their order. grid: (UEs); block: 32.
extern "C" __global__ void __launch_bounds__(32)
finish_equaliser(const Ue* ues, const float* partial, UeResult* results, int n_blocks,
                 int n_groups, int symbols_per_block) {
  const Ue& ue = ues[blockIdx.x];
  if (ue.n_subcarriers == 0) return;
  const int used = (ue.n_subcarriers + THREADS - 1) / THREADS;
  const int used_groups = (ue.n_data_symbols + symbols_per_block - 1) / symbols_per_block;
  float noise = 0.0f, capacity = 0.0f;
  for (int i = threadIdx.x; i < used * used_groups; i += 32) {
    const int group = i / used, block = i % used;
    const float* from = partial + 2 * ((blockIdx.x * n_groups + group) * n_blocks + block);
    noise += from[0];
    capacity += from[1];
  }
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    noise += __shfl_xor_sync(0xffffffffu, noise, step);
    capacity += __shfl_xor_sync(0xffffffffu, capacity, step);
  }
  if (threadIdx.x != 0) return;
  int n_elements = 0;
  for (int i = 0; i < ue.n_data_symbols; ++i) n_elements += ue.n_subcarriers / ue.data_step[i];
  const float share = 1.0f / (float(n_elements) * ue.n_layers);
  results[blockIdx.x].symbol_noise_var = noise * share;
  results[blockIdx.x].capacity = capacity * share;
}
