#include "core/bind.h"

#include "ops/ensemble_discrepancy/ensemble_discrepancy.h"

namespace medad {
namespace {

// `first` is the place of the axis of images: 1 where members come before it.
EnsembleSide side_of(const TensorView& view, int first, const TensorView& normal,
                     const char* name) {
  check_dtype(view, name, normal.dtype);
  MEDAD_CHECK(view.dims == first + 4,
              name << ": " << first + 4 << " axes expected, got " << view.dims);
  int64_t expected = 1;
  for (int d = 3; d >= 0; --d) {
    const int64_t size = view.shape[first + d], stride = view.strides[first + d];
    MEDAD_CHECK(size == normal.shape[1 + d], name << ": (B, C, H, W) as of normal expected");
    MEDAD_CHECK(d == 0 || size == 1 || stride == expected || view.numel() == 0,
                name << ": contiguous images expected");
    expected *= size;
  }
  return {view.data, first == 1 ? view.strides[0] : 0, view.strides[first]};
}

int members_of(const TensorView& view, const char* name) {
  MEDAD_CHECK(view.shape[0] > 0 && view.shape[0] < (int64_t(1) << 31),
              name << ": 1 to 2^31 - 1 members expected, got " << view.shape[0]);
  return static_cast<int>(view.shape[0]);
}

}  // namespace

void ensemble_discrepancy(const TensorView& unknown, const TensorView& normal,
                          const TensorView& image, const TensorView& log_variance,
                          const TensorView& out, const Launch& launch) {
  MEDAD_CHECK(is_floating(normal.dtype), "normal: a floating type expected");
  EnsembleJob job{};
  job.normal = side_of(normal, 1, normal, "normal");
  job.normal_members = members_of(normal, "normal");
  job.unknown = side_of(unknown, 1, normal, "unknown");
  job.unknown_members = members_of(unknown, "unknown");
  if (image.given()) job.image = side_of(image, 0, normal, "image");
  if (log_variance.given()) {
    check_like(log_variance, "log_variance", normal);
    job.log_variance = side_of(log_variance, 1, normal, "log_variance");
  }
  job.dtype = normal.dtype;
  const int64_t* shape = normal.shape;
  check_tensor(out, "out", compute_dtype(job.dtype),
               {image.given() ? 3 : 2, shape[1], shape[2], shape[3], shape[4]});
  job.images = shape[1];
  job.pixels = shape[2] * shape[3] * shape[4];
  job.out = out.data;
  job.threads = launch.threads;
  if (job.images == 0 || job.pixels == 0) return;

  bool one_run = true;
  for (const EnsembleSide* side : {&job.unknown, &job.normal, &job.image, &job.log_variance}) {
    one_run = one_run && (side->data == nullptr || side->image_stride == job.pixels);
  }
  if (one_run || job.images == 1) {
    job.pixels *= job.images;
    job.images = 1;
  }
  MEDAD_RUN(ensemble_discrepancy, job, launch);
}

MEDAD_BIND(ensemble_discrepancy);

}  // namespace medad
