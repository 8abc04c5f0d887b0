// Runs CUDA C++ kernels on a CPU, to test their logic where there is no GPU: the part of the
// language that phy/kernels uses, in plain C++. Each thread of a block is a fibre; barriers and
// warp shuffles switch between them. It stands in the include path where CUDA's own header of this
// name would be, so that kernels compile unchanged.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct __half { _Float16 value; };
struct __half2 { __half x, y; };
inline float __half2float(__half h) { return float(h.value); }
inline __half __float2half_rn(float f) { return {_Float16(f)}; }
inline float2 __half22float2(__half2 h) { return {float(h.x.value), float(h.y.value)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {{_Float16(x)}, {_Float16(y)}}; }

using std::max;
using std::min;
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __log2f(float x) { return std::log2(x); }
inline unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t both = uint64_t(high) << 32 | low;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= unsigned(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return out;
}
template <class T> inline T __ldg(const T* from) { return *from; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

namespace cuda_on_cpu {

struct Dim { unsigned x, y, z; };

struct Warp {
  uint64_t values[2][32];
  unsigned arrived = 0, generation = 0;
};

struct Fibre {
  ucontext_t start;
  jmp_buf at;
  bool is_started = false, is_done = false;
  std::unique_ptr<char[]> stack;
  Dim thread;
  unsigned index;
};

struct Block {
  std::vector<Fibre> fibres;
  std::vector<Warp> warps;
  unsigned live = 0, arrived = 0, generation = 0;
  ucontext_t scheduler_start;
  jmp_buf scheduler;
  Fibre* now = nullptr;
  const std::function<void()>* body = nullptr;
};

inline Block block;

inline void yield() {
  if (!_setjmp(block.now->at)) _longjmp(block.scheduler, 1);
}

inline void run_fibre() {
  (*block.body)();
  Fibre& own = *block.now;
  own.is_done = true;
  --block.live;
  // Whoever waits at the barrier may now be complete.
  if (block.live && block.arrived == block.live) { block.arrived = 0; ++block.generation; }
  _longjmp(block.scheduler, 1);
}

inline void barrier() {
  const unsigned own = block.generation;
  if (++block.arrived == block.live) {
    block.arrived = 0;
    ++block.generation;
    return;
  }
  while (block.generation == own) yield();
}

// All 32 lanes of a warp give a value and see all others'.
inline const uint64_t* exchange(uint64_t value) {
  Warp& warp = block.warps[block.now->index / 32];
  const unsigned own = warp.generation, size = std::min<unsigned>(32, block.fibres.size());
  warp.values[own & 1][block.now->index & 31] = value;
  if (++warp.arrived == size) {
    warp.arrived = 0;
    ++warp.generation;
  } else {
    while (warp.generation == own) yield();
  }
  return warp.values[own & 1];
}

template <class T> T shuffle(T value, unsigned lane) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits)[lane & 31];
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::block.now->thread)
inline cuda_on_cpu::Dim blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_cpu::barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { cuda_on_cpu::exchange(0); }
template <class T> T __shfl_sync(unsigned, T value, int lane) {
  return cuda_on_cpu::shuffle(value, lane);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_on_cpu::shuffle(value, (cuda_on_cpu::block.now->index & 31) ^ mask);
}
inline unsigned __ballot_sync(unsigned, bool is_set) {
  const uint64_t* values = cuda_on_cpu::exchange(is_set);
  unsigned out = 0;
  for (int lane = 0; lane < 32; ++lane) out |= unsigned(values[lane]) << lane;
  return out;
}
inline bool __any_sync(unsigned mask, bool is_set) { return __ballot_sync(mask, is_set) != 0; }

namespace cuda_on_cpu {

inline void run_block(const std::function<void()>& body) {
  const unsigned n = blockDim.x * blockDim.y * blockDim.z;
  const size_t stack = 256 * 1024;
  block.fibres.resize(n);
  block.warps.assign((n + 31) / 32, Warp{});
  block.live = n;
  block.arrived = 0;
  block.body = &body;
  for (unsigned i = 0; i < n; ++i) {
    Fibre& fibre = block.fibres[i];
    if (!fibre.stack) fibre.stack.reset(new char[stack]);
    fibre.is_started = fibre.is_done = false;
    fibre.index = i;
    fibre.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack.get();
    fibre.start.uc_stack.ss_size = stack;
    fibre.start.uc_link = nullptr;
    makecontext(&fibre.start, run_fibre, 0);
  }
  while (block.live) {
    for (unsigned i = 0; i < n; ++i) {
      Fibre& fibre = block.fibres[i];
      if (fibre.is_done) continue;
      block.now = &fibre;
      if (_setjmp(block.scheduler)) continue;
      if (fibre.is_started) _longjmp(fibre.at, 1);
      fibre.is_started = true;
      setcontext(&fibre.start);
    }
  }
}

template <class... A, size_t... I>
void launch(void (*kernel)(A...), Dim grid, Dim threads, void** arguments,
            std::index_sequence<I...>) {
  gridDim = grid;
  blockDim = threads;
  const std::function<void()> body = [&] {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
  };
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(body);
      }
}

template <class... A>
void launch(void (*kernel)(A...), Dim grid, Dim threads, void** arguments) {
  launch(kernel, grid, threads, arguments, std::index_sequence_for<A...>{});
}

}  // namespace cuda_on_cpu
