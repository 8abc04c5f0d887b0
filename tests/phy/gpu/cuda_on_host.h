// Enough of CUDA to run our kernels on the host, one thread block after the other.
//
// Every thread is a coroutine that runs until it must wait for the others; which one runs next is
// drawn at random, so that a missing barrier shows. Binary16 arithmetic is done in double, which
// holds all products and sums exactly, and rounded once.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define AIRAN_ON_HOST
#define __device__
#define __global__
#define __shared__ static
#define __constant__ static
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)

alignas(128) unsigned char host_shared[256 * 1024];
#define HOST_SHARED_NAME host_shared

struct Index {
    unsigned x = 0, y = 0, z = 0;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace host {

struct Meeting {  // of the threads of a block or of a warp
    int expected = 0, arrived = 0;
    unsigned round = 0;
    unsigned value[2][1024];
};

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    Index index;
    bool finished = false;
};

inline ucontext_t scheduler;
inline std::vector<std::unique_ptr<Thread>> threads;
inline Thread* current;
inline Meeting block_meeting, warp_meeting[32];
inline std::function<void()> body;

inline void yield() { swapcontext(&current->context, &scheduler); }

inline void leave(Meeting& meeting) {
    --meeting.expected;
    if (meeting.arrived && meeting.arrived == meeting.expected) {
        meeting.arrived = 0;
        ++meeting.round;
    }
}

// Waits for all of the meeting, leaving `value` there; returns the values of all.
inline const unsigned* meet(Meeting& meeting, unsigned place, unsigned value) {
    const unsigned round = meeting.round;
    meeting.value[round % 2][place] = value;
    if (++meeting.arrived == meeting.expected) {
        meeting.arrived = 0;
        ++meeting.round;
    }
    while (meeting.round == round) yield();
    return meeting.value[round % 2];
}

inline void run_thread() {
    body();
    current->finished = true;
    leave(block_meeting);
    leave(warp_meeting[current->index.x / 32]);
    yield();
}

inline void run_block(unsigned n_threads) {
    static std::mt19937 random(1);
    threads.clear();
    block_meeting = Meeting{};
    block_meeting.expected = static_cast<int>(n_threads);
    for (auto& meeting : warp_meeting) meeting = Meeting{};
    for (unsigned i = 0; i < n_threads; ++i) {
        auto thread = std::make_unique<Thread>();
        thread->stack.resize(64 * 1024);
        thread->index.x = i;
        getcontext(&thread->context);
        thread->context.uc_stack.ss_sp = thread->stack.data();
        thread->context.uc_stack.ss_size = thread->stack.size();
        makecontext(&thread->context, run_thread, 0);
        ++warp_meeting[i / 32].expected;
        threads.push_back(std::move(thread));
    }
    std::vector<Thread*> waiting;
    for (auto& thread : threads) waiting.push_back(thread.get());
    while (!waiting.empty()) {
        std::shuffle(waiting.begin(), waiting.end(), random);
        for (Thread* thread : waiting) {
            current = thread;
            swapcontext(&scheduler, &thread->context);
        }
        std::erase_if(waiting, [](Thread* thread) { return thread->finished; });
    }
}

inline double to_double(unsigned half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    double value = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
    if (exponent == 31) value = fraction ? NAN : INFINITY;
    return half & 0x8000 ? -value : value;
}

inline unsigned to_half(double value) {
    const unsigned sign = std::signbit(value) ? 0x8000u : 0;
    const double size = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00;
    if (size >= 65520) return sign | 0x7c00;
    if (size == 0) return sign;
    int exponent;
    std::frexp(size, &exponent);
    const int unit = std::max(exponent - 11, -24);
    const unsigned whole = static_cast<unsigned>(std::nearbyint(std::ldexp(size, -unit)));
    // A whole number of 2048 carries into the exponent by itself.
    return sign | (unit == -24 ? whole : (static_cast<unsigned>(unit + 24) << 10) + whole);
}

template <class Operation>
unsigned each_half(Operation operation) {
    return operation(0) & 0xffff | operation(16) << 16;
}

}  // namespace host

inline Index blockIdx, blockDim, gridDim;
#define threadIdx (host::current->index)

inline void __syncthreads() { host::meet(host::block_meeting, threadIdx.x, 0); }
inline int __syncthreads_or(int value) {
    const unsigned* values = host::meet(host::block_meeting, threadIdx.x, value != 0);
    for (unsigned i = 0; i < blockDim.x; ++i)
        if (!host::threads[i]->finished && values[i]) return 1;
    return 0;
}
inline int __syncthreads_and(int value) { return !__syncthreads_or(!value); }
inline const unsigned* host_warp(unsigned value) {
    return host::meet(host::warp_meeting[threadIdx.x / 32], threadIdx.x % 32, value);
}
inline void __threadfence() {}
inline void __syncwarp(unsigned = ~0u) { host_warp(0); }
inline unsigned __ballot_sync(unsigned, int value) {
    const unsigned* values = host_warp(value != 0);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= (values[lane] & 1) << lane;
    return bits;
}
inline unsigned __shfl_sync(unsigned, unsigned value, int lane) { return host_warp(value)[lane & 31]; }
inline unsigned __shfl_xor_sync(unsigned, unsigned value, int mask) {
    return host_warp(value)[(threadIdx.x % 32) ^ mask];
}
inline unsigned __shfl_down_sync(unsigned, unsigned value, unsigned by) {
    const unsigned lane = threadIdx.x % 32;
    return host_warp(value)[lane + by < 32 ? lane + by : lane];
}
inline unsigned __reduce_xor_sync(unsigned, unsigned value) {
    const unsigned* values = host_warp(value);
    unsigned sum = 0;
    for (int lane = 0; lane < 32; ++lane) sum ^= values[lane];
    return sum;
}
inline unsigned __brev(unsigned value) {
    unsigned turned = 0;
    for (int i = 0; i < 32; ++i) turned |= (value >> i & 1) << (31 - i);
    return turned;
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    by &= 31;
    return by ? high << by | low >> (32 - by) : high;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    by &= 31;
    return by ? low >> by | high << (32 - by) : low;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned digits) {
    const std::uint64_t both = static_cast<std::uint64_t>(b) << 32 | a;
    unsigned found = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned digit = digits >> 4 * i & 15;
        unsigned byte = both >> 8 * (digit & 7) & 255;
        if (digit & 8) byte = byte & 128 ? 255 : 0;
        found |= byte << 8 * i;
    }
    return found;
}
inline unsigned atomicOr(unsigned* at, unsigned value) { return std::exchange(*at, *at | value); }
inline unsigned atomicAnd(unsigned* at, unsigned value) { return std::exchange(*at, *at & value); }
inline unsigned atomicXor(unsigned* at, unsigned value) { return std::exchange(*at, *at ^ value); }
inline int atomicAdd(int* at, int value) { return std::exchange(*at, *at + value); }

// half2.cuh's arithmetic.
typedef unsigned int Pair;
#define HOST_PAIR(expression)                                             \
    host::each_half([&](int s) {                                          \
        const auto of = [s](Pair p) { return host::to_double(p >> s & 0xffff); }; \
        return host::to_half(expression);                                 \
    })
inline Pair add(Pair a, Pair b) { return HOST_PAIR(of(a) + of(b)); }
inline Pair subtract(Pair a, Pair b) { return HOST_PAIR(of(a) - of(b)); }
inline Pair fma(Pair a, Pair b, Pair c) { return HOST_PAIR(of(a) * of(b) + of(c)); }
inline Pair smaller(Pair a, Pair b) { return HOST_PAIR(std::fmin(of(a), of(b))); }
inline Pair larger(Pair a, Pair b) { return HOST_PAIR(std::fmax(of(a), of(b))); }
inline Pair excess(Pair a, Pair b) { return HOST_PAIR(std::fmax(of(a) - of(b), 0.0)); }
inline Pair magnitude(Pair a) { return a & 0x7fff7fffu; }
inline Pair equal(Pair a, Pair b) { return HOST_PAIR(of(a) == of(b) ? 1.0 : 0.0); }
inline unsigned bytes(unsigned a, unsigned b, unsigned digits) { return __byte_perm(a, b, digits); }

template <class... A, std::size_t... I>
void host_call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

template <class... A>
void host_launch(void (*kernel)(A...), unsigned grid, unsigned block, void** arguments) {
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) {
        host::body = [&] { host_call(kernel, arguments, std::index_sequence_for<A...>{}); };
        // Shared memory holds whatever the block before left: nothing may rely on zeros.
        std::memset(host_shared, 0xa5, sizeof host_shared);
        host::run_block(block);
    }
}
