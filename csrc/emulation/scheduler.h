// Runs a kernel's blocks one after another, and the threads of a block as fibers that change at
// barriers and warp operations, in an order that the test chooses.
//
// What it finds: barriers that not all threads reach, or reach at different places; warp operations
// that a lane of the mask never joins; missing barriers, as results that change with the order;
// shared memory read before it is written (it starts as NaN); work for another stream or device
// than the caller's. What it cannot find: races between memory operations without a switch between
// them, and how fast anything is.
#pragma once

#include <algorithm>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "emulation/fiber.h"

namespace medad::emulation {

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
  Index3() = default;
  Index3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum class Order { kForward, kReverse, kRandom };

constexpr int kWarp = 32;
constexpr int kWarpWords = 8;            // 32-bit words that a lane can show the others at once
constexpr unsigned char kPoison = 0xff;  // NaN in every float format, -1 in every integer
constexpr int kMaxThreads = 1024;
// What a block may ask for: a Hopper's, or what the build names.
#ifndef MEDAD_EMULATION_SHARED_KIB
#define MEDAD_EMULATION_SHARED_KIB 227
#endif
constexpr std::size_t kMaxSharedBytes = MEDAD_EMULATION_SHARED_KIB << 10;

// Where no Launch says which stream is meant.
inline const void* const kAnyStream = &kAnyStream;

struct LaneWords {
  std::uint32_t word[kWarpWords];
};

class Scheduler {
 public:
  static Scheduler& get() {
    static Scheduler scheduler;
    return scheduler;
  }

  Order order = Order::kForward;
  unsigned seed = 0;
  long launches = 0;
  Index3 thread_index, block_index, block_size, grid_size;
  int device = 0;                          // the current one
  int wanted_device = 0;                   // where the caller's tensors are
  const void* wanted_stream = kAnyStream;  // the caller's

  // Work must be where the caller's tensors are, and wait for what the caller waits for.
  void check_place(const void* stream, const char* what) const {
    if (wanted_stream == kAnyStream) return;
    if (stream != wanted_stream) throw std::runtime_error(std::string(what) + ": another stream");
    if (device != wanted_device) throw std::runtime_error(std::string(what) + ": another device");
  }

  void launch(Index3 grid, Index3 block, std::size_t shared_bytes, const void* stream,
              std::function<void()> kernel) {
    check_place(stream, "launch");
    ++launches;
    const std::size_t blocks = std::size_t(grid.x) * grid.y * grid.z;
    const std::size_t threads = std::size_t(block.x) * block.y * block.z;
    if (blocks == 0 || threads == 0) throw std::runtime_error("launch: an empty grid or block");
    if (threads > kMaxThreads) throw std::runtime_error("launch: more than 1024 threads a block");
    if (grid.y > 65535 || grid.z > 65535) throw std::runtime_error("launch: grid.y or z > 65535");
    if (shared_bytes > kMaxSharedBytes) throw std::runtime_error("launch: too much shared memory");
    while (threads_.size() < threads) threads_.push_back(std::make_unique<Thread>());
    grid_size = grid;
    block_size = block;
    kernel_ = std::move(kernel);
    random_.seed(seed);
    for (std::size_t number : permutation(blocks)) {
      block_index = {unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                     unsigned(number / grid.x / grid.y)};
      run_block(threads, shared_bytes);
    }
  }

  void sync_threads(const char* place) { wait(State::kBlockBarrier, ~0u, place); }

  // All lanes of `mask` meet here; each gets what every one of them showed.
  const LaneWords* exchange(unsigned mask, const LaneWords& shown, const char* place) {
    Thread& self = *threads_[current_];
    if (!(mask >> (current_ % kWarp) & 1)) fail("a lane outside its own mask", place);
    self.shown = shown;
    wait(State::kWarpBarrier, mask, place);
    return self.seen;
  }

  // Memory of the block that every thread finds under the same key; poisoned when the block starts.
  std::pair<void*, std::size_t> shared(const void* key, std::size_t bytes) {
    auto [entry, fresh] = shared_.try_emplace(key);
    if (fresh) {
      entry->second.assign((bytes + 15) / 16, Chunk{});
      std::memset(entry->second.data(), kPoison, entry->second.size() * sizeof(Chunk));
      std::size_t total = 0;
      for (const auto& item : shared_) total += item.second.size() * sizeof(Chunk);
      if (total > kMaxSharedBytes) fail("too much shared memory", "shared");
    }
    return {entry->second.data(), bytes};
  }
  std::pair<void*, std::size_t> dynamic_shared() { return shared(&shared_, dynamic_bytes_); }

  [[noreturn]] void fail(const std::string& what, const char* place) const {
    std::ostringstream text;
    text << what << " at " << place << ", block (" << block_index.x << ", " << block_index.y << ", "
         << block_index.z << "), thread (" << thread_index.x << ", " << thread_index.y << ", "
         << thread_index.z << ")";
    throw std::runtime_error(text.str());
  }

 private:
  enum class State { kReady, kBlockBarrier, kWarpBarrier, kDone };
  struct alignas(16) Chunk {
    unsigned char bytes[16];
  };
  struct Thread {
    Fiber fiber;
    State state = State::kDone;
    unsigned mask = 0;
    const char* place = "";
    LaneWords shown;
    LaneWords seen[kWarp];
  };

  std::vector<std::size_t> permutation(std::size_t count) {
    std::vector<std::size_t> numbers(count);
    for (std::size_t i = 0; i < count; ++i) numbers[i] = i;
    if (order == Order::kReverse) std::reverse(numbers.begin(), numbers.end());
    if (order == Order::kRandom) std::shuffle(numbers.begin(), numbers.end(), random_);
    return numbers;
  }

  static void body() {
    Scheduler& self = get();
    try {
      self.kernel_();
    } catch (...) {  // an exception must not cross the switch of stacks; launch() throws it again
      self.error_ = std::current_exception();
    }
    Thread& thread = *self.threads_[self.current_];
    thread.state = State::kDone;
    thread.fiber.leave();
  }

  void wait(State state, unsigned mask, const char* place) {
    Thread& self = *threads_[current_];
    self.state = state;
    self.mask = mask;
    self.place = place;
    self.fiber.leave();
  }

  void run_block(std::size_t threads, std::size_t shared_bytes) {
    shared_.clear();
    dynamic_bytes_ = shared_bytes;
    count_ = threads;
    error_ = nullptr;
    for (std::size_t t = 0; t < threads; ++t) {
      threads_[t]->state = State::kReady;
      threads_[t]->fiber.start(&Scheduler::body);
    }
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t t : permutation(threads)) {
        if (threads_[t]->state != State::kReady) continue;
        moved = true;
        enter(t);
        if (error_) std::rethrow_exception(error_);
        if (threads_[t]->state == State::kWarpBarrier) release_warp(t);
      }
      if (!moved) moved = release_block();
    }
  }

  void enter(std::size_t t) {
    current_ = t;
    set_thread_index(t);
    threads_[t]->fiber.enter();
  }

  void set_thread_index(std::size_t t) {
    thread_index = {unsigned(t % block_size.x), unsigned(t / block_size.x % block_size.y),
                    unsigned(t / block_size.x / block_size.y)};
  }

  // The lanes of a mask that exist: the last warp of a block may be cut short.
  template <class Visit>
  void each_lane(std::size_t t, unsigned mask, Visit visit) {
    const std::size_t first = t / kWarp * kWarp;
    for (std::size_t lane = 0; lane < kWarp && first + lane < count_; ++lane) {
      if (mask >> lane & 1) visit(lane, *threads_[first + lane]);
    }
  }

  void release_warp(std::size_t t) {
    const Thread& last = *threads_[t];
    const unsigned mask = last.mask;
    bool complete = true;
    each_lane(t, mask, [&](std::size_t, Thread& other) {
      if (other.state != State::kWarpBarrier) {
        complete = false;
      } else if (other.mask != mask || std::strcmp(other.place, last.place) != 0) {
        fail(std::string("lanes of one mask wait at different places, one at ") + other.place,
             last.place);
      }
    });
    if (!complete) return;
    LaneWords all[kWarp];
    std::memset(all, kPoison, sizeof all);  // what lanes outside the mask would show
    each_lane(t, mask, [&](std::size_t lane, Thread& other) { all[lane] = other.shown; });
    each_lane(t, mask, [&](std::size_t, Thread& other) {
      std::memcpy(other.seen, all, sizeof all);
      other.state = State::kReady;
    });
  }

  // True if threads go on, false if the block has ended.
  bool release_block() {
    const char* place = nullptr;
    for (std::size_t t = 0; t < count_; ++t) {
      const Thread& thread = *threads_[t];
      set_thread_index(t);
      if (thread.state == State::kWarpBarrier) {
        fail("a warp operation that not all lanes of its mask reach", thread.place);
      }
      if (thread.state != State::kBlockBarrier) continue;
      if (place && std::strcmp(place, thread.place) != 0) {
        fail(std::string("threads wait at different barriers, one at ") + place, thread.place);
      }
      place = thread.place;
    }
    if (!place) return false;
    for (std::size_t t = 0; t < count_; ++t) {
      if (threads_[t]->state == State::kDone) {
        set_thread_index(t);
        fail("a barrier that this thread has ended without", place);
      }
      threads_[t]->state = State::kReady;
    }
    return true;
  }

  std::vector<std::unique_ptr<Thread>> threads_;
  std::map<const void*, std::vector<Chunk>> shared_;
  std::function<void()> kernel_;
  std::exception_ptr error_;
  std::mt19937 random_;
  std::size_t count_ = 0, current_ = 0, dynamic_bytes_ = 0;
};

}  // namespace medad::emulation
