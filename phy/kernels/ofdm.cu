// Both sides of the FFTs of an OFDM slot: cyclic prefixes off and on, the carrier's place in the
// spectrum, the phase of TS 38.211 5.4, and conversion between binary16 and the FFT's float.
//
// A row is what one antenna of one cell hears or sends. All kernels take
//   slot    int32[1]: number of the slot in its frame
//   starts  int32[n_slots][14]: the sample behind each cyclic prefix, by slot of the subframe
//   turns   float2[cell][n_slots][14]: phase and scale of each symbol
// Spec: TS 38.211 5.3.1, 5.4
#include <cuda_fp16.h>

const int N_SYMBOLS = 14;
const int THREADS = 256;
const int PER_THREAD = 4;  // loads in flight

__device__ __forceinline__ float2 load(const __half2* from) { return __half22float2(*from); }
__device__ __forceinline__ float2 load(const float2* from) { return *from; }
__device__ __forceinline__ void store(__half2* to, float2 value) {
  *to = __floats2half2_rn(value.x, value.y);
}
__device__ __forceinline__ void store(float2* to, float2 value) { *to = value; }

__device__ __forceinline__ float2 times(float2 a, float2 b) {
  return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

__device__ __forceinline__ int first_of_thread() {
  return blockIdx.x * THREADS * PER_THREAD + threadIdx.x;
}

// The place of the block's symbol among all rows' symbols.
__device__ __forceinline__ size_t symbol_of_rows() {
  return size_t(blockIdx.z) * N_SYMBOLS + blockIdx.y;
}

__device__ __forceinline__ float2 turn_of(const float2* turns, const int* slot, int n_slots,
                                          int n_antennas) {
  const int cell = blockIdx.z / n_antennas;
  return turns[(cell * n_slots + slot[0] % n_slots) * N_SYMBOLS + blockIdx.y];
}

// The window begins `offset` samples before the useful part. What it takes of the prefix is put
// where the useful part would have had it, so that the spectrum has no ramp of phase.
template <class Sample>
__device__ void gather(const Sample* samples, const int* slot, const int* starts, float2* windows,
                       int fft_size, int row_samples, int n_slots, int offset) {
  const int start = starts[(slot[0] % n_slots) * N_SYMBOLS + blockIdx.y];
  const Sample* useful = samples + size_t(blockIdx.z) * row_samples + start;
  float2* window = windows + symbol_of_rows() * fft_size;
  const int first = first_of_thread();
  float2 value[PER_THREAD];
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < fft_size) value[i] = load(useful + (at < fft_size - offset ? at : at - fft_size));
  }
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < fft_size) window[at] = value[i];
  }
}

// Puts a cyclic prefix before each useful part.
template <class Sample>
__device__ void join(const float2* useful, const int* slot, const int* starts, Sample* samples,
                     int fft_size, int row_samples, int n_slots) {
  const int* own = starts + (slot[0] % n_slots) * N_SYMBOLS;
  const int symbol = blockIdx.y;
  const int begin = symbol ? own[symbol - 1] + fft_size : 0;
  const int prefix = own[symbol] - begin;
  const float2* from = useful + symbol_of_rows() * fft_size;
  Sample* to = samples + size_t(blockIdx.z) * row_samples + begin;
  const int first = first_of_thread();
  float2 value[PER_THREAD];
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < fft_size + prefix) value[i] = from[at < prefix ? at + fft_size - prefix : at - prefix];
  }
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < fft_size + prefix) store(to + at, value[i]);
  }
}

// grid of all: (samples or subcarriers of a symbol / 1024, 14, rows); block: 256.
//   samples  in: [row][row_samples]
//   windows  out: float2[row][14][fft_size]
extern "C" __global__ void __launch_bounds__(THREADS)
gather_half(const __half2* samples, const int* slot, const int* starts, float2* windows,
            int fft_size, int row_samples, int n_slots, int offset) {
  gather(samples, slot, starts, windows, fft_size, row_samples, n_slots, offset);
}

extern "C" __global__ void __launch_bounds__(THREADS)
gather_float(const float2* samples, const int* slot, const int* starts, float2* windows,
             int fft_size, int row_samples, int n_slots, int offset) {
  gather(samples, slot, starts, windows, fft_size, row_samples, n_slots, offset);
}

//   spectra  in: float2[row][14][fft_size], not scaled
//   grid     out: half2[row][14][subcarrier]
extern "C" __global__ void __launch_bounds__(THREADS)
scatter_grid(const float2* spectra, const int* slot, const float2* turns, __half2* grid,
             int fft_size, int n_subcarriers, int n_slots, int n_antennas) {
  const float2 turn = turn_of(turns, slot, n_slots, n_antennas);
  const float2* spectrum = spectra + symbol_of_rows() * fft_size;
  __half2* to = grid + symbol_of_rows() * n_subcarriers;
  const int half = n_subcarriers / 2;
  const int first = first_of_thread();
  float2 value[PER_THREAD];
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < n_subcarriers) value[i] = spectrum[at < half ? at + fft_size - half : at - half];
  }
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < n_subcarriers) store(to + at, times(value[i], turn));
  }
}

//   grid     in: half2[row][14][subcarrier]
//   spectra  out: float2[row][14][fft_size], zeros outside of the carrier
extern "C" __global__ void __launch_bounds__(THREADS)
spread_grid(const __half2* grid, const int* slot, const float2* turns, float2* spectra,
            int fft_size, int n_subcarriers, int n_slots, int n_antennas) {
  const float2 turn = turn_of(turns, slot, n_slots, n_antennas);
  const __half2* from = grid + symbol_of_rows() * n_subcarriers;
  float2* spectrum = spectra + symbol_of_rows() * fft_size;
  const int half = n_subcarriers / 2;
  const int first = first_of_thread();
  float2 value[PER_THREAD];
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    const int subcarrier = at < half ? at + half : at - fft_size + half;
    value[i] = make_float2(0.0f, 0.0f);
    if (at < half || (at >= fft_size - half && at < fft_size)) value[i] = load(from + subcarrier);
  }
#pragma unroll
  for (int i = 0; i < PER_THREAD; ++i) {
    const int at = first + i * THREADS;
    if (at < fft_size) spectrum[at] = times(value[i], turn);
  }
}

//   useful   in: float2[row][14][fft_size]
//   samples  out: [row][row_samples]; what a shorter slot leaves of a row stays as it is
extern "C" __global__ void __launch_bounds__(THREADS)
join_half(const float2* useful, const int* slot, const int* starts, __half2* samples, int fft_size,
          int row_samples, int n_slots) {
  join(useful, slot, starts, samples, fft_size, row_samples, n_slots);
}

extern "C" __global__ void __launch_bounds__(THREADS)
join_float(const float2* useful, const int* slot, const int* starts, float2* samples, int fft_size,
           int row_samples, int n_slots) {
  join(useful, slot, starts, samples, fft_size, row_samples, n_slots);
}
