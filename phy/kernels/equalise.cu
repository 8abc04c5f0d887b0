// From channel estimates to soft bits: interpolation in time, unbiased MMSE, max-log demapper,
// descrambling, int8. One thread takes one subcarrier and a few symbols of it.
//
// The arithmetic is that of phy/receiver/equaliser.py and phy/nr/modulation_kernel.py. Bytes: the
// samples once, the channel once for every few symbols (from the L2 cache), a byte a coded bit.
// Operations, 4 antennas and layers, 2 DM-RS positions, 64QAM: about 1,000 a resource element.
#include "front_end.cuh"

const int THREADS = 128;
const int MAX_BYTES = 32;  // soft bits of a resource element: 4 layers of 256QAM

// One load for all layers of a subcarrier; zeros if there is no such antenna.
template <int LAYERS>
__device__ __forceinline__ void load_layers(float2 (&h)[LAYERS], const __half2* from,
                                            bool is_there) {
  if constexpr (LAYERS == 1) {
    h[0] = unpack(is_there ? *reinterpret_cast<const unsigned*>(from) : 0u);
  } else if constexpr (LAYERS == 2) {
    const uint2 words = is_there ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
    h[0] = unpack(words.x);
    h[1] = unpack(words.y);
  } else {
    const uint4 words =
        is_there ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    h[0] = unpack(words.x);
    h[1] = unpack(words.y);
    h[2] = unpack(words.z);
    if constexpr (LAYERS == 4) h[3] = unpack(words.w);
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

// Where one thread finds its channel.
struct Own {
  const __half2* channel;  // at the first position and antenna
  unsigned to_rx, to_position;
  int n_rx, n_positions;
};

// Adds what one antenna sees to the normal equations.
template <int LAYERS>
__device__ __forceinline__ void add_antenna(Normal<LAYERS>& normal, const float2 (&h)[LAYERS],
                                            float2 y) {
#pragma unroll
  for (int i = 0; i < LAYERS; ++i) {
    normal.diagonal[i] = fmaf(h[i].x, h[i].x, fmaf(h[i].y, h[i].y, normal.diagonal[i]));
    add_conjugate_product(normal.matched[i], h[i], y);
#pragma unroll
    for (int j = 0; j < i; ++j) add_conjugate_product(normal.lower[below(i, j)], h[i], h[j]);
  }
}

// Interpolates the channel to the symbol and gathers the normal equations, antenna by antenna.
// `weights` are the symbol's, real and imaginary parts by position.
template <int RX, int LAYERS>
__device__ __forceinline__ void gather(Normal<LAYERS>& normal, const Own& own,
                                       const float2 (&y)[RX], const float (*weights)[2]) {
#pragma unroll
  for (int i = 0; i < LAYERS; ++i) {
    normal.diagonal[i] = 0.0f;
    normal.matched[i] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int j = 0; j < i; ++j) normal.lower[below(i, j)] = make_float2(0.0f, 0.0f);
  }
  if (own.n_positions <= 2) {
    // The usual case, without a branch. A position that is not there has the weight 0.
    const float2 early = make_float2(weights[0][0], weights[0][1]);
    const float2 late = make_float2(weights[1][0], weights[1][1]);
    const unsigned to_late = own.n_positions == 2 ? own.to_position : 0;
#pragma unroll
    for (int rx = 0; rx < RX; ++rx) {
      float2 h[LAYERS] = {}, first[LAYERS], second[LAYERS];
      const __half2* from = own.channel + rx * own.to_rx;
      load_layers<LAYERS>(first, from, rx < own.n_rx);
      load_layers<LAYERS>(second, from + to_late, rx < own.n_rx);
#pragma unroll
      for (int layer = 0; layer < LAYERS; ++layer) {
        add_product(h[layer], early, first[layer]);
        add_product(h[layer], late, second[layer]);
      }
      add_antenna<LAYERS>(normal, h, y[rx]);
    }
    return;
  }
#pragma unroll
  for (int rx = 0; rx < RX; ++rx) {
    if (rx >= own.n_rx) break;
    float2 h[LAYERS] = {};
#pragma unroll 1
    for (int position = 0; position < own.n_positions; ++position) {
      float2 seen[LAYERS];
      load_layers<LAYERS>(seen, own.channel + (rx * own.to_rx + position * own.to_position), true);
      const float2 weight = make_float2(weights[position][0], weights[position][1]);
#pragma unroll
      for (int layer = 0; layer < LAYERS; ++layer) add_product(h[layer], weight, seen[layer]);
    }
    add_antenna<LAYERS>(normal, h, y[rx]);
  }
}

struct Sums {
  float noise, capacity;
};

// Unbiased MMSE by G = H^H H / noise + I = L D L^H: symbols and their SINRs. With the mean squared
// error e before the bias is taken off, the SINR is (1 - e) / e, and log2(1 + SINR) = -log2(e).
template <int LAYERS>
__device__ __forceinline__ Sums solve(float2 (&symbol)[LAYERS], float (&sinr)[LAYERS],
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
  float noise = 0.0f, product = 1.0f;
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
    // The floor keeps the product of four above the smallest float.
    error = fminf(fmaxf(error, 1e-9f), 1.0f - 1e-6f);
    const float unbias = __fdividef(1.0f, 1.0f - error);
    symbol[i] = make_float2(value.x * unbias, value.y * unbias);
    sinr[i] = __fdividef(1.0f - error, error);
    noise = fmaf(error, unbias, noise);
    product *= error;
  }
  return {noise, -__log2f(product)};
}

// What max-log scores the bits of one dimension, in a quarter of the LLR that a symbol on the
// smallest level has; `value` in units of that level. The first bit is the sign, and
// 2^(BITS - 1) - |value| is a dimension with one bit less.
template <int BITS>
__device__ __forceinline__ void fold(float* score, float value) {
#pragma unroll
  for (int bit = 0; bit < BITS; ++bit) {
    const int n_levels = 1 << (BITS - 1 - bit);
    const float magnitude = fabsf(value);
    float best = magnitude;
#pragma unroll
    for (int k = 2; k <= n_levels; ++k)
      best = fmaxf(best, fmaf(float(k), magnitude, -float(k * (k - 1))));
    score[2 * bit] = copysignf(best, value);
    value = float(n_levels) - magnitude;
  }
}

// Rounds score * gain to the nearest of -127 to 127, which the low byte of the result holds; `gain`
// is over 254. Saturation to 0 ... 1 costs no instruction of its own.
__device__ __forceinline__ unsigned to_byte(float score, float gain) {
  const float part = __saturatef(fmaf(score, gain, 0.5f));
  return __float_as_uint(fmaf(part, 254.0f, 12582912.0f - 127.0f));
}

// Demaps one resource element and leaves its soft bits, in the code word's order, at `out`.
template <int LAYERS, int ORDER>
__device__ __forceinline__ void demap(unsigned char* out, const float2 (&symbol)[LAYERS],
                                      const float (&sinr)[LAYERS], float scale, unsigned flips) {
  constexpr int N = LAYERS * ORDER, N_LEVELS = 1 << (ORDER / 2);
  constexpr float LEAST_SQUARED = 1.5f / float(N_LEVELS * N_LEVELS - 1);
  const float unit = sqrtf(1.0f / LEAST_SQUARED);
  unsigned byte[N + 3];
#pragma unroll
  for (int layer = 0; layer < LAYERS; ++layer) {
    const float gain = 4.0f * LEAST_SQUARED / 254.0f * scale * sinr[layer];
    float score[ORDER];
    fold<ORDER / 2>(score, symbol[layer].x * unit);
    fold<ORDER / 2>(score + 1, symbol[layer].y * unit);
#pragma unroll
    for (int i = 0; i < ORDER; ++i) {
      const unsigned flip = flips << (31 - layer * ORDER - i) & 1u << 31;
      byte[layer * ORDER + i] =
          to_byte(__uint_as_float(__float_as_uint(score[i]) ^ flip), gain);
    }
  }
  // Four bytes at a time, and eight where elements begin at a multiple of eight.
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const unsigned low = __byte_perm(byte[i], byte[i + 1], 0x0040);
    if constexpr (N % 4 != 0) {
      *reinterpret_cast<unsigned short*>(out + i) = static_cast<unsigned short>(low);
      if (i + 2 < N)
        *reinterpret_cast<unsigned short*>(out + i + 2) =
            static_cast<unsigned short>(__byte_perm(byte[i + 2], byte[i + 3], 0x0040));
    } else {
      const unsigned word =
          __byte_perm(low, __byte_perm(byte[i + 2], byte[i + 3], 0x0040), 0x5410);
      if constexpr (N % 8 != 0) {
        *reinterpret_cast<unsigned*>(out + i) = word;
      } else {
        byte[i] = word;
        if (i % 8 == 4) *reinterpret_cast<uint2*>(out + i - 4) = make_uint2(byte[i - 4], word);
      }
    }
  }
}

// Makes a symbol that is not finite no symbol at all, without information.
template <int LAYERS>
__device__ __forceinline__ bool check(float2 (&symbol)[LAYERS], float (&sinr)[LAYERS]) {
  float total = 0.0f;
#pragma unroll
  for (int layer = 0; layer < LAYERS; ++layer)
    total += fabsf(symbol[layer].x) + fabsf(symbol[layer].y);
  const bool is_good = is_finite(total);
#pragma unroll
  for (int layer = 0; layer < LAYERS; ++layer) {
    symbol[layer].x = is_good ? symbol[layer].x : 0.0f;
    symbol[layer].y = is_good ? symbol[layer].y : 0.0f;
    sinr[layer] = is_good ? sinr[layer] : 0.0f;
  }
  return is_good;
}

template <int RX, int LAYERS>
__device__ __forceinline__ void equalise_symbols(Sums& sums, const Ue& ue, unsigned char* staged,
                                                 const __half2* grid, const __half2* channel,
                                                 const float* whitening,
                                                 const unsigned* scrambling, signed char* llr,
                                                 UeResult& result, int first, int last) {
  const int lane = threadIdx.x & 31, n_subcarriers = ue.n_subcarriers;
  const int subcarrier = blockIdx.x * THREADS + threadIdx.x;
  const int warp_first = subcarrier - lane;
  if (warp_first >= n_subcarriers) return;
  const int n_here = min(32, n_subcarriers - warp_first);
  // Lanes beyond the allocation work on its last subcarrier and store nothing.
  const int column = min(subcarrier, n_subcarriers - 1);
  const int order = ue.modulation_order, n_bytes = LAYERS * order;
  const float scale = ue.llr_scale;
  const int width = ue.grid_width, is_irc = ue.is_irc;
  const __half2* samples = grid + ue.grid_offset + ue.first_subcarrier + column;
  scrambling += ue.scrambling_offset;
  llr += ue.llr_offset;
  const unsigned to_rx = unsigned(n_subcarriers * layer_stride(ue));
  const Own own = {channel + channel_index(ue, 0, 0, column), to_rx, to_rx * ue.n_rx, ue.n_rx,
                   ue.n_positions};
  const float* subband =
      whitening + (blockIdx.y * MAX_SUBBANDS + subband_of(ue, column)) * WHITENING_STRIDE;
  const float inverse_noise = is_irc ? subband[0] : __fdividef(1.0f, result.noise_var);
  const float2* whitener = reinterpret_cast<const float2*>(subband + 2);
  bool is_bad = false;

  for (int i = first; i < last; ++i) {
    const int at = ue.data_symbol[i], start = ue.data_start[i];
    const bool is_half = ue.data_step[i] == 2;
    const bool is_active = subcarrier < n_subcarriers && (!is_half || (column & 1));
    float2 y[RX];
#pragma unroll
    for (int rx = 0; rx < RX; ++rx)
      y[rx] = rx < own.n_rx ? __half22float2(samples[(rx * N_SYMBOLS + at) * width])
                            : make_float2(0.0f, 0.0f);
    if (is_irc) {
#pragma unroll
      for (int row = RX - 1; row >= 0; --row) {
        if (row >= own.n_rx) continue;
        float2 white = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int j = 0; j <= row; ++j) add_product(white, whitener[row * (row + 1) / 2 + j], y[j]);
        y[row] = white;
      }
    }
    Normal<LAYERS> normal;
    gather<RX, LAYERS>(normal, own, y, ue.time_weights[at]);
    float2 symbol[LAYERS];
    float sinr[LAYERS];
    const Sums here = solve<LAYERS>(symbol, sinr, normal, inverse_noise);
    const bool is_good = check<LAYERS>(symbol, sinr);
    sums.noise += is_active && is_good ? here.noise : 0.0f;
    sums.capacity += is_active && is_good ? here.capacity : 0.0f;
    is_bad |= is_active && !is_good;

    const int element = start + (is_half ? column >> 1 : column);
    const unsigned bit = unsigned(element) * n_bytes;
    const unsigned* word = scrambling + (bit >> 5);
    const unsigned flips = __funnelshift_r(word[0], word[1], bit & 31);
    unsigned char* out = staged + (is_half ? lane >> 1 : lane) * n_bytes;
    if (is_active) {
      switch (order) {
        case 2: demap<LAYERS, 2>(out, symbol, sinr, scale, flips); break;
        case 4: demap<LAYERS, 4>(out, symbol, sinr, scale, flips); break;
        case 6: demap<LAYERS, 6>(out, symbol, sinr, scale, flips); break;
        default: demap<LAYERS, 8>(out, symbol, sinr, scale, flips);
      }
    }
    __syncwarp();
    // The warp's soft bits are one run of bytes; its length and place are multiples of 4.
    const int n_run = (is_half ? n_here >> 1 : n_here) * n_bytes;
    signed char* to = llr + (start + (is_half ? warp_first >> 1 : warp_first)) * n_bytes;
    if (((n_run | int(reinterpret_cast<unsigned long long>(to))) & 7) == 0) {
#pragma unroll 1
      for (int word8 = lane; word8 < n_run / 8; word8 += 32)
        reinterpret_cast<uint2*>(to)[word8] = reinterpret_cast<const uint2*>(staged)[word8];
    } else {
#pragma unroll 1
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
  if (int(blockIdx.x) * THREADS >= ues[blockIdx.y].n_subcarriers) return;
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
