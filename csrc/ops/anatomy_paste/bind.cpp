#include "core/bind.h"

#include "ops/anatomy_paste/anatomy_paste.h"

namespace medad {
namespace {

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

// masks, sources: may be absent. `scratch`: uint8, anatomy_paste_scratch() of it, for the GPU.
void anatomy_paste(const TensorView& images, const TensorView& masks, const TensorView& sources,
                   const TensorView& integers, const TensorView& reals, bool exact,
                   const TensorView& scratch, const TensorView& out, const TensorView& gate,
                   const Launch& launch) {
  const DType dtype = images.dtype;
  MEDAD_CHECK(images.dims == 4, "images: 4 axes (B, C, H, W) expected, got " << images.dims);
  MEDAD_CHECK(is_floating(dtype) || dtype == DType::kUInt8,
              "images: uint8 or a floating type expected");
  MEDAD_CHECK(!exact || dtype == DType::kUInt8, "images: uint8 expected where exact");
  const TensorView& from = sources.given() ? sources : images;
  PasteJob job{};
  job.images = images.data;
  job.masks = masks.ptr<uint8_t>();
  job.sources = from.data;
  job.integers = integers.ptr<int64_t>();
  job.reals = reals.ptr<double>();
  job.out = out.data;
  job.gate = gate.data;
  job.dtype = dtype;
  job.batch = images.shape[0];
  job.channels = images.shape[1];
  job.height = images.shape[2];
  job.width = images.shape[3];
  job.source_count = from.shape[0];
  job.source_height = from.shape[2];
  job.source_width = from.shape[3];
  job.exact = exact;
  job.threads = launch.threads;
  for (const int64_t side : {job.height, job.width, job.source_height, job.source_width}) {
    MEDAD_CHECK(side <= kMaxPasteSide,
                "images, sources: at most " << kMaxPasteSide << " pixels a side expected");
  }
  check_tensor(images, "images", dtype, {job.batch, job.channels, job.height, job.width});
  check_tensor(out, "out", dtype, {job.batch, job.channels, job.height, job.width});
  check_tensor(gate, "gate", exact ? DType::kUInt8 : compute_dtype(dtype),
               {job.batch, 1, job.height, job.width});
  if (masks.given()) {
    check_tensor(masks, "masks", DType::kBool, {job.batch, job.height, job.width});
  }
  check_tensor(from, "sources", dtype,
               {job.source_count, job.channels, job.source_height, job.source_width});
  check_tensor(integers, "integers", DType::kInt64, {job.batch, kPasteIntegers});
  check_tensor(reals, "reals", DType::kFloat64, {job.batch, kPasteReals});
  if (job.batch == 0 || job.height == 0 || job.width == 0) return;
  if (launch.on_cpu()) {
    check_values(job);
  } else {
    const bool wide = dtype == DType::kFloat64;
    check_tensor(scratch, "scratch", DType::kUInt8,
                 {anatomy_paste_scratch(job.batch, job.height, job.width, wide)});
    job.scratch = scratch.data;
  }
  MEDAD_RUN(anatomy_paste, job, launch);
}

MEDAD_BIND(anatomy_paste_scratch);
MEDAD_BIND(anatomy_paste);

}  // namespace medad
