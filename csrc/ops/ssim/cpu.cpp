// SSIM and its gradient on the CPU, in one pass over the images.
//
// Bound by arithmetic: 11 operations a pixel (6 products, 5 sums) for each of 4 blurs along both
// axes, and of 3 or 4 more for the gradient. A task walks down a strip of columns four rows at a
// time: blur along the columns, blur along the rows, value, derivatives, and at once their own two
// blurs, the adjoint of the first, which need no more than the last rows: nothing but the images,
// the gradient and some 100 KB of rings is ever touched. Each number is formed by one thread in one
// order, and the sum of the map goes over sums of rows: any number of threads, any cut into tasks
// and any batch around an image give the same bits.

#include <omp.h>

#include <cstdlib>
#include <new>

#include "ops/ssim/cpu_task.h"
#include "ops/ssim/ssim.h"

namespace medad::MEDAD_ISA {
namespace {

constexpr int64_t kTasks = 16;     // aimed at: planes are cut into runs of rows if there are fewer
constexpr int64_t kTaskRows = 64;  // but not below this, since a run repeats 2 radius rows
constexpr int64_t kSerialWork = 1 << 13;  // pixels below which waking threads does not pay

// All tasks, computed in C.
template <class C>
class Run {
 public:
  Run(const SsimJob& job, RowSum* sums) : job_(job), strips_(job), sums_(sums) {
    planes_ = job.batch * job.channels;
    const int64_t vectors = (strips_.widest() + kLanes<C> - 1) / kLanes<C>;
    thread_bytes_ = Fields<C>().plan(vectors, job.radius, nullptr);
    const int64_t wanted = kTasks / (planes_ * strips_.number);
    runs_ = bigger(1, smaller(wanted, job.rows() / kTaskRows));
    threads_ = planes_ * job.rows() * job.columns() < kSerialWork ? 1 : job.threads;
    threads_ = int(smaller(threads_, tasks()));
    memory_ = static_cast<char*>(std::aligned_alloc(64, size_t(thread_bytes_ * threads_)));
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Run() { std::free(memory_); }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // All strips of all planes, or those that are marked.
  void operator()(const char* marked) {
    if (threads_ == 1) {
      for (int64_t task = 0; task < tasks(); ++task) run(task, 0, marked);
      return;
    }
#pragma omp parallel for schedule(dynamic) num_threads(threads_)
    for (int64_t task = 0; task < tasks(); ++task) run(task, omp_get_thread_num(), marked);
  }

 private:
  int64_t tasks() const { return planes_ * strips_.number * runs_; }

  void run(int64_t task, int thread, const char* marked) {
    const int64_t part = task % runs_, place = task / runs_;
    if (marked != nullptr && !marked[place]) return;
    const Strip strip = strips_[place % strips_.number];
    const int64_t plane = place / strips_.number;
    Fields<C> fields;
    fields.plan((strip.count + kLanes<C> - 1) / kLanes<C>, job_.radius,
                memory_ + thread * thread_bytes_);
    const int64_t first = job_.rows() * part / runs_, last = job_.rows() * (part + 1) / runs_;
    RowSum* sums = sums_ + place * job_.map_rows();
    if (job_.radius == 5) {
      Task<C, 5>(job_, strip, plane, fields, sums).run(first, last);
    } else {
      Task<C, 0>(job_, strip, plane, fields, sums).run(first, last);
    }
  }

  const SsimJob& job_;
  const Strips strips_;
  RowSum* sums_;
  int64_t planes_, runs_, thread_bytes_;
  int threads_;
  char* memory_;
};

// The sums of rows, and a mark for each strip of each plane.
class Sums {
 public:
  explicit Sums(const SsimJob& job)
      : strips_(job.batch * job.channels * Strips(job).number), rows_(job.map_rows()) {
    memory_ =
        static_cast<char*>(std::malloc(size_t(strips_ * rows_) * sizeof(RowSum) + size_t(strips_)));
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  ~Sums() { std::free(memory_); }
  Sums(const Sums&) = delete;
  Sums& operator=(const Sums&) = delete;

  RowSum* sums() const { return reinterpret_cast<RowSum*>(memory_); }
  char* marks() const { return memory_ + strips_ * rows_ * int64_t(sizeof(RowSum)); }

  bool mark_those_that_left_range() const {
    bool any = false;
    for (int64_t strip = 0; strip < strips_; ++strip) {
      bool left = false;
      for (int64_t i = strip * rows_; i < (strip + 1) * rows_; ++i) left |= sums()[i].left_range;
      marks()[strip] = left;
      any |= left;
    }
    return any;
  }

  double total() const {
    double total = 0;
    for (int64_t strip = 0; strip < strips_; ++strip) {
      double of_strip = 0;
      for (int64_t i = strip * rows_; i < (strip + 1) * rows_; ++i) of_strip += sums()[i].sum;
      total += of_strip;
    }
    return total;
  }

 private:
  int64_t strips_, rows_;
  char* memory_;
};

}  // namespace

void ssim_cpu(const SsimJob& job) {
  double total = 0;
  if (job.batch * job.channels > 0) {
    const Sums sums(job);
    if (job.wide || job.dtype == DType::kFloat64) {
      Run<double>(job, sums.sums())(nullptr);
    } else {
      Run<float>(job, sums.sums())(nullptr);
      if (sums.mark_those_that_left_range()) Run<double>(job, sums.sums())(sums.marks());
    }
    total = sums.total();
  }
  if (job.total == nullptr) return;
  if (job.dtype == DType::kFloat64) {
    *static_cast<double*>(job.total) = total * job.scale;
  } else {
    *static_cast<float*>(job.total) = float(total * job.scale);
  }
}

}  // namespace medad::MEDAD_ISA
