// Patch discrepancy on the CPU: one pass over the features, then the resize.
//
// Bound by memory: each feature is read once, 3 multiply-adds a pair. Images are worked on in
// groups, so that their distances, which the resize reads next, are still in cache. Each position
// and each row of the map is computed by one thread in one order: any number of threads, and any
// batch around an image, gives the same bits.

#include <omp.h>

#include <new>

#include "core/cpu_level.h"
#include "core/half.h"
#include "core/matrix_tile.h"
#include "core/simd.h"
#include "ops/patch_discrepancy/patch_discrepancy.h"

namespace medad::MEDAD_ISA {
namespace {

#ifdef __FMA__
inline double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
inline double multiply_add(double a, double b, double c) { return a * b + c; }
inline float multiply_add(float a, float b, float c) { return a * b + c; }
#endif
inline DoubleVector widen(const float* from) {
#if defined(MEDAD_ISA_avx512)
  // Each half loaded by its own instruction: left alone, gcc loads a whole register and splits it.
  return DoubleVector(_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(from)));
#else
  typedef float Narrow __attribute__((vector_size(kVectorBytes / 2)));
  Narrow value;
  __builtin_memcpy(&value, from, sizeof value);
  return __builtin_convertvector(value, DoubleVector);
#endif
}

template <class T>
using real_of = typename Compute<T>::type;  // what we compute in, and what the distances are
template <class T>
using map_of = real_of<T>;

template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

}  // namespace
}  // namespace medad::MEDAD_ISA

#include "ops/patch_discrepancy/cpu_block.h"
#include "ops/patch_discrepancy/cpu_heads.h"
#include "ops/patch_discrepancy/cpu_resize.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kGroupBytes = 512 << 10;     // distances of the images worked on at once
constexpr int64_t kStrip = 32;                 // rows of the map a task resizes
constexpr int64_t kGradientCache = 384 << 10;  // bytes of a block that its second pass finds in L2
constexpr int64_t kSerialElements = 1 << 14;   // below: not worth waking threads

// Memory that is given back whatever happens; `new` because it throws where it must.
class Memory {
 public:
  explicit Memory(int64_t bytes)
      : data_(static_cast<char*>(::operator new(size_t(bytes) + 64, std::align_val_t(64)))) {}
  ~Memory() { ::operator delete(data_, std::align_val_t(64)); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // The next `count` elements; asked for in the order in which the size was added up.
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(data_ + used_);
    used_ += padded<T>(count);
    return taken;
  }
  template <class T>
  static int64_t padded(int64_t count) {
    return (count * int64_t(sizeof(T)) + 63) / 64 * 64;
  }

 private:
  char* data_;
  int64_t used_ = 0;
};

// What a layer has besides its description.
template <class T>
struct Prepared {
  int64_t map_start;    // of its distances within those of an image
  int64_t block;        // positions a block
  int64_t block_start;  // of its blocks within those of an image
  Columns<map_of<T>> columns;
  real_of<T>* packed;  // weights of its head
};

template <class T>
class Run {
  using M = map_of<T>;
  using R = real_of<T>;

 public:
  Run(const DiscrepancyJob& job, bool backward)
      : job_(job), backward_(backward), memory_(plan(job, backward)) {
    layers_ = memory_.template take<Prepared<T>>(job.layer_count);
    for (int l = 0; l < job.layer_count; ++l) prepare(l);
    maps_ = memory_.template take<M>(group_ * positions_);
    scratch_ = memory_.template take<char>(threads_ * scratch_bytes_);
  }

  void forward() {
    in_threads([this](char* scratch) {
      pack_heads();
      for (int64_t image = 0; image < job_.batch; image += group_) {
        const int64_t images = smaller(group_, job_.batch - image);
        distances(image, images, scratch);
        resize(image, images, scratch);
      }
    });
  }

  void backward() {
    in_threads([this](char* scratch) {
      for (int64_t image = 0; image < job_.batch; image += group_) {
        const int64_t images = smaller(group_, job_.batch - image);
        gather(image, images, scratch);
        gradients(image, images);
      }
    });
  }

 private:
  // Sizes, and the bytes they come to.
  int64_t plan(const DiscrepancyJob& job, bool backward) {
    int64_t bytes = Memory::padded<Prepared<T>>(job.layer_count);
    int64_t elements = 0;
    scratch_bytes_ = Memory::padded<M>(2 * job.width);
    for (int l = 0; l < job.layer_count; ++l) {
      const DiscrepancyLayer& layer = job.layers[l];
      positions_ += layer.height * layer.width;
      elements += layer.height * layer.width * (layer.channels + layer.head.hidden);
      bytes += 2 * Memory::padded<int32_t>(job.width) + Memory::padded<M>(job.width);
      if (layer.head.w1 == nullptr) continue;
      bytes += Memory::padded<R>(packed_elements(layer));
      const int64_t needed = Memory::padded<R>(head_scratch<R>(layer));
      scratch_bytes_ = scratch_bytes_ > needed ? scratch_bytes_ : needed;
    }
    const int64_t fitting = kGroupBytes / (positions_ * int64_t(sizeof(M)));
    const int64_t groups = fitting < 1 ? job.batch : (job.batch + fitting - 1) / fitting;
    group_ = (job.batch + groups - 1) / groups;
    threads_ = elements * job.batch < kSerialElements && !backward ? 1 : job.threads;
    return bytes + Memory::padded<M>(group_ * positions_) + threads_ * scratch_bytes_;
  }

  static int64_t packed_elements(const DiscrepancyLayer& layer) {
    return packed_size(layer.head.hidden, layer.channels) +
           packed_size(layer.head.projected, layer.head.hidden);
  }

  void prepare(int l) {
    const DiscrepancyLayer& layer = job_.layers[l];
    Prepared<T>& own = layers_[l];
    const int64_t positions = layer.height * layer.width;
    own.map_start = l == 0 ? 0 : layers_[l - 1].map_start + size_of(l - 1);
    own.block_start = blocks_;
    own.block = block_of<T>(layer, kMaxBlock);
    if (layer.head.w1 != nullptr) own.block = kHeadBlock<R>;
    if (backward_) {
      const int64_t fitting = kGradientCache / (2 * int64_t(sizeof(R)) * (layer.channels + 1));
      const int64_t rounded = fitting < 64 ? 64 : fitting / 64 * 64;
      own.block = smaller(own.block, rounded);
    }
    blocks_ += (positions + own.block - 1) / own.block;
    own.columns.first = memory_.template take<int32_t>(job_.width);
    own.columns.second = memory_.template take<int32_t>(job_.width);
    own.columns.weight = memory_.template take<M>(job_.width);
    fill(own.columns, layer.width, job_.width);
    own.packed = nullptr;
    if (layer.head.w1 != nullptr) own.packed = memory_.template take<R>(packed_elements(layer));
  }

  int64_t size_of(int l) const { return job_.layers[l].height * job_.layers[l].width; }

  template <class Body>
  void in_threads(Body body) {
    if (threads_ == 1) {
      body(scratch_);
      return;
    }
#pragma omp parallel num_threads(threads_)
    body(scratch_ + omp_get_thread_num() * scratch_bytes_);
  }

  void pack_heads() {
    for (int l = 0; l < job_.layer_count; ++l) {
      const DiscrepancyLayer& layer = job_.layers[l];
      const DiscrepancyHead& head = layer.head;
      if (head.w1 == nullptr) continue;
      R* first = layers_[l].packed;
      R* second = first + packed_size(head.hidden, layer.channels);
      const int64_t tiles = tiles_of(head.hidden);
#pragma omp for schedule(static)
      for (int64_t t = 0; t < tiles + tiles_of(head.projected); ++t) {
        if (t < tiles) {
          pack_weights(static_cast<const T*>(head.w1), head.hidden, layer.channels, t, first);
        } else {
          pack_weights(static_cast<const T*>(head.w2), head.projected, head.hidden, t - tiles,
                       second);
        }
      }
    }
  }

  // Calls visit(block, map) for each block of the images, `map` being its place in maps_.
  template <class Visit>
  void each_block(int64_t image, int64_t images, Visit visit) {
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < images * blocks_; ++task) {
      const int64_t i = task / blocks_;
      int l = job_.layer_count - 1;
      while (layers_[l].block_start > task % blocks_) --l;
      const Prepared<T>& own = layers_[l];
      const int64_t first = (task % blocks_ - own.block_start) * own.block;
      const Block block = {&job_.layers[l], image + i, first,
                           smaller(own.block, size_of(l) - first)};
      visit(block, own, maps_ + i * positions_ + own.map_start + first);
    }
  }

  void distances(int64_t image, int64_t images, char* scratch) {
    each_block(image, images, [&](const Block& block, const Prepared<T>& own, M* map) {
      if (own.packed != nullptr) {
        block_head_distance<T>(block, own.packed, reinterpret_cast<R*>(scratch), map);
      } else {
        block_distance<T>(block, map);
      }
    });
  }

  void gradients(int64_t image, int64_t images) {
    each_block(image, images, [&](const Block& block, const Prepared<T>&, M* map) {
      block_gradient<T>(block, map);
    });
  }

  M* map_of_image(int64_t image, int l) const {
    const int64_t place = (job_.separate ? l * job_.batch : 0) + image;
    return static_cast<M*>(job_.map) + place * job_.height * job_.width;
  }

  void resize(int64_t image, int64_t images, char* scratch) {
    const int64_t strips = (job_.height + kStrip - 1) / kStrip;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < images * strips; ++task) {
      const int64_t i = task / strips, first = task % strips * kStrip;
      const int64_t last = smaller(first + kStrip, job_.height);
      const int64_t count = (last - first) * job_.width;
      for (int l = 0; l < job_.layer_count; ++l) {
        M* out = map_of_image(image + i, l) + first * job_.width;
        if (l == 0 || job_.separate) {
          for (int64_t p = 0; p < count; ++p) out[p] = 0;
        }
        add_resized(maps_ + i * positions_ + layers_[l].map_start, job_.layers[l],
                    layers_[l].columns, job_, first, last, reinterpret_cast<M*>(scratch), out);
        if (l == job_.layer_count - 1 && job_.scale != 1) {
          for (int64_t p = 0; p < count; ++p) out[p] *= M(job_.scale);
        }
      }
    }
  }

  void gather(int64_t image, int64_t images, char* scratch) {
    for (int l = 0; l < job_.layer_count; ++l) {
      const DiscrepancyLayer& layer = job_.layers[l];
#pragma omp for schedule(dynamic, 8)
      for (int64_t task = 0; task < images * layer.height; ++task) {
        const int64_t i = task / layer.height, row = task % layer.height;
        gather_row(map_of_image(image + i, l), layer, layers_[l].columns, job_, row,
                   reinterpret_cast<M*>(scratch),
                   maps_ + i * positions_ + layers_[l].map_start + row * layer.width);
      }
    }
  }

  const DiscrepancyJob& job_;
  bool backward_;
  int64_t positions_ = 0;  // of an image, over all layers
  int64_t blocks_ = 0;     // likewise
  int64_t group_ = 1;      // images worked on at once
  int64_t scratch_bytes_ = 0;
  int threads_ = 1;
  Memory memory_;
  Prepared<T>* layers_;
  M* maps_;
  char* scratch_;
};

}  // namespace

void patch_discrepancy_cpu(const DiscrepancyJob& job) {
  with_floating_type(job.dtype, [&](auto zero) { Run<decltype(zero)>(job, false).forward(); });
}

void patch_discrepancy_backward_cpu(const DiscrepancyJob& job) {
  with_floating_type(job.dtype, [&](auto zero) { Run<decltype(zero)>(job, true).backward(); });
}

}  // namespace medad::MEDAD_ISA
