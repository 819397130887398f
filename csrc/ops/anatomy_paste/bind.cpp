#include "core/check.h"
#include "core/cpu_level.h"
#include "core/dispatch.h"
#include "ops/anatomy_paste/anatomy_paste.h"

namespace medad {

MEDAD_DECLARE_CPU(anatomy_paste_cpu, (const PasteJob& job))

namespace {

void check_shape(const TensorView& view, const TensorView& images, const char* name) {
  MEDAD_CHECK(view.is_contiguous(), name << ": a contiguous tensor expected");
  MEDAD_CHECK(view.dims > 0 && view.shape[0] == images.shape[0],
              name << ": one row an image expected");
}

// What only a look at the values can tell: done where they can be read without waiting.
void check_values(const PasteJob& job) {
  for (int64_t image = 0; image < job.batch; ++image) {
    const int64_t* own = job.integers + image * kPasteIntegers;
    const double* real = job.reals + image * kPasteReals;
    const int64_t source = own[kPasteSource];
    MEDAD_CHECK(source >= -1 && source < job.source_count,
                "params: source_index of image " << image << " is " << source << ", of "
                                                 << job.source_count << " sources");
    const int64_t rows = source < 0 ? job.height : job.source_height;
    const int64_t columns = source < 0 ? job.width : job.source_width;
    const int64_t row = own[kPasteSourceRow], column = own[kPasteSourceColumn];
    MEDAD_CHECK(own[kPasteHeight] >= 1 && own[kPasteWidth] >= 1 && row >= 0 && column >= 0 &&
                    row <= rows - own[kPasteHeight] && column <= columns - own[kPasteWidth],
                "params: patch of image " << image << " (" << own[kPasteHeight] << " x "
                                          << own[kPasteWidth] << " from row " << row << ", column "
                                          << column << ") does not lie in its source of " << rows
                                          << " x " << columns);
    MEDAD_CHECK(
        real[kPasteSigma] >= 0 && real[kPasteSigma] <= kMaxPasteSigma,
        "params: sigma from 0 to " << kMaxPasteSigma << " expected, got " << real[kPasteSigma]);
  }
}

}  // namespace

int64_t anatomy_paste_scratch(int64_t batch, int64_t height, int64_t width, bool wide) {
  return paste_scratch(batch, height, width, wide).total;
}

void anatomy_paste(const TensorView& images, const TensorView& masks, const TensorView& sources,
                   const TensorView& integers, const TensorView& reals, bool exact,
                   const TensorView& scratch, const TensorView& out, const TensorView& gate,
                   const Launch& launch) {
  MEDAD_CHECK(images.dims == 4, "images: 4 axes (B, C, H, W) expected, got " << images.dims);
  MEDAD_CHECK(is_floating(images.dtype) || images.dtype == DType::kUInt8,
              "images: uint8 or a floating type expected");
  MEDAD_CHECK(!exact || images.dtype == DType::kUInt8, "images: uint8 expected where exact");
  MEDAD_CHECK(images.shape[2] <= kMaxPasteSide && images.shape[3] <= kMaxPasteSide,
              "images: at most " << kMaxPasteSide << " pixels a side expected");
  check_shape(images, images, "images");
  check_shape(integers, images, "integers");
  check_shape(reals, images, "reals");
  check_shape(out, images, "out");
  check_shape(gate, images, "gate");
  MEDAD_CHECK(
      integers.dtype == DType::kInt64 && integers.dims == 2 && integers.shape[1] == kPasteIntegers,
      "integers: (B, " << int(kPasteIntegers) << ") of int64 expected");
  MEDAD_CHECK(reals.dtype == DType::kFloat64 && reals.dims == 2 && reals.shape[1] == kPasteReals,
              "reals: (B, " << int(kPasteReals) << ") of float64 expected");
  MEDAD_CHECK(out.dtype == images.dtype && out.dims == 4, "out: like images expected");
  for (int d = 1; d < 4; ++d) {
    MEDAD_CHECK(out.shape[d] == images.shape[d], "out: the images' shape expected");
  }
  const DType gate_type = exact                             ? DType::kUInt8
                          : images.dtype == DType::kFloat64 ? DType::kFloat64
                                                            : DType::kFloat32;
  MEDAD_CHECK(gate.dtype == gate_type && gate.dims == 4 && gate.shape[1] == 1 &&
                  gate.shape[2] == images.shape[2] && gate.shape[3] == images.shape[3],
              "gate: (B, 1, H, W) of uint8 (exact), float64 (for float64) or float32 expected");
  PasteJob job{};
  if (masks.dims > 0) {
    check_shape(masks, images, "masks");
    MEDAD_CHECK(masks.dtype == DType::kBool && masks.dims == 3 &&
                    masks.shape[1] == images.shape[2] && masks.shape[2] == images.shape[3],
                "masks: (B, H, W) of bool expected");
    job.masks = masks.ptr<uint8_t>();
  }
  const TensorView& from = sources.dims > 0 ? sources : images;
  MEDAD_CHECK(from.dims == 4 && from.dtype == images.dtype && from.is_contiguous() &&
                  from.shape[1] == images.shape[1],
              "sources: contiguous (N, C, Hs, Ws) of the images' type and C expected");
  MEDAD_CHECK(from.shape[2] <= kMaxPasteSide && from.shape[3] <= kMaxPasteSide,
              "sources: at most " << kMaxPasteSide << " pixels a side expected");
  job.images = images.data;
  job.sources = from.data;
  job.integers = integers.ptr<int64_t>();
  job.reals = reals.ptr<double>();
  job.out = out.data;
  job.gate = gate.data;
  job.dtype = images.dtype;
  job.batch = images.shape[0];
  job.channels = images.shape[1];
  job.height = images.shape[2];
  job.width = images.shape[3];
  job.source_count = from.shape[0];
  job.source_height = from.shape[2];
  job.source_width = from.shape[3];
  job.exact = exact;
  job.threads = launch.threads > 1 ? launch.threads : 1;
  if (job.batch == 0 || job.height == 0 || job.width == 0) return;
  if (launch.on_cpu()) {
    check_values(job);
    MEDAD_CALL_CPU(anatomy_paste_cpu, job);
    return;
  }
#ifdef MEDAD_WITH_CUDA
  MEDAD_CHECK(scratch.dtype == DType::kUInt8 && scratch.is_contiguous(),
              "scratch: contiguous bytes expected");
  MEDAD_CHECK(scratch.numel() >= anatomy_paste_scratch(job.batch, job.height, job.width,
                                                       images.dtype == DType::kFloat64),
              "scratch: as many bytes as anatomy_paste_scratch says expected");
  job.scratch = scratch.data;
  anatomy_paste_cuda(job, launch);
#else
  (void)scratch;
  MEDAD_CHECK(false, "this build has no CUDA kernels");
#endif
}

}  // namespace medad
