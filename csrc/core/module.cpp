// The only file that knows Python: borrow tensors, release the interpreter lock, call.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "core/cpu_level.h"
#include "core/tensor_view.h"
#include "ops/anatomy_paste/anatomy_paste.h"
#include "ops/ensemble_discrepancy/ensemble_discrepancy.h"
#include "ops/lung_mask/lung_mask.h"
#include "ops/nt_xent_loss/nt_xent_loss.h"
#include "ops/patch_discrepancy/patch_discrepancy.h"
#include "ops/patch_nce_loss/patch_nce_loss.h"
#include "ops/smooth_saliency/smooth_saliency.h"
#include "ops/ssim/ssim.h"

namespace py = pybind11;

namespace pybind11::detail {

// A tensor arrives as the tuple (data_ptr, dtype code, shape, strides) that _native.py makes of it.
template <>
struct type_caster<medad::TensorView> {
  PYBIND11_TYPE_CASTER(medad::TensorView, const_name("tuple[int, int, tuple, tuple]"));

  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != 4) return false;
    PyObject* const* items = &PyTuple_GET_ITEM(source.ptr(), 0);
    if (!PyTuple_Check(items[2]) || !PyTuple_Check(items[3])) return false;
    const Py_ssize_t dims = PyTuple_GET_SIZE(items[2]);
    if (dims > medad::kMaxDims || PyTuple_GET_SIZE(items[3]) != dims) return false;
    value.data = PyLong_AsVoidPtr(items[0]);
    value.dtype = static_cast<medad::DType>(PyLong_AsLong(items[1]));
    value.dims = static_cast<int>(dims);
    for (Py_ssize_t d = 0; d < dims; ++d) {
      value.shape[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(items[2], d));
      value.strides[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(items[3], d));
    }
    return !PyErr_Occurred();
  }
};

// Where to run arrives as the tuple (device index or -1, stream, threads).
template <>
struct type_caster<medad::Launch> {
  PYBIND11_TYPE_CASTER(medad::Launch, const_name("tuple[int, int, int]"));

  bool load(handle source, bool) {
    if (!PyTuple_Check(source.ptr()) || PyTuple_GET_SIZE(source.ptr()) != 3) return false;
    PyObject* const* items = &PyTuple_GET_ITEM(source.ptr(), 0);
    value.device = static_cast<int>(PyLong_AsLong(items[0]));
    value.stream = PyLong_AsVoidPtr(items[1]);
    value.threads = static_cast<int>(PyLong_AsLong(items[2]));
    return !PyErr_Occurred();
  }
};

}  // namespace pybind11::detail

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of medad_fast. Called through medad_fast.ops only.";
  module.attr("version") = MEDAD_VERSION;
#ifdef MEDAD_WITH_CUDA
  module.attr("with_cuda") = true;
#else
  module.attr("with_cuda") = false;
#endif
  module.attr("cuda_archs") = MEDAD_CUDA_ARCHS_BUILT;
  module.attr("cuda_reason") = MEDAD_CUDA_REASON;
#ifdef _OPENMP
  module.attr("openmp") = true;
#else
  module.attr("openmp") = false;
#endif

  py::dict dtypes;
  const std::pair<const char*, medad::DType> names[] = {
      {"float32", medad::DType::kFloat32}, {"float64", medad::DType::kFloat64},
      {"float16", medad::DType::kFloat16}, {"bfloat16", medad::DType::kBFloat16},
      {"bool", medad::DType::kBool},       {"uint8", medad::DType::kUInt8},
      {"int64", medad::DType::kInt64},
  };
  for (const auto& [name, code] : names) dtypes[name] = static_cast<int>(code);
  module.attr("dtypes") = dtypes;
  module.attr("nt_xent_row_values") = static_cast<int>(medad::kNtXentRowValues);

  module.def("cpu_level", [] { return medad::cpu_level_name(medad::cpu_level()); });
  module.def("best_cpu_level", [] { return medad::cpu_level_name(medad::best_cpu_level()); });
  module.def("set_cpu_level", [](const std::string& wanted) {
    for (auto value :
         {medad::CpuLevel::kBaseline, medad::CpuLevel::kAvx2, medad::CpuLevel::kAvx512}) {
      if (wanted == medad::cpu_level_name(value)) return medad::set_cpu_level(value);
    }
    throw py::value_error("level: baseline, avx2 or avx512 expected, got " + wanted);
  });

  const py::call_guard<py::gil_scoped_release> unlocked;
  module.def("anatomy_paste", &medad::anatomy_paste, unlocked);
  module.def("anatomy_paste_scratch", &medad::anatomy_paste_scratch);
  module.def("ensemble_discrepancy", &medad::ensemble_discrepancy, unlocked);
  module.def("lung_mask", &medad::lung_mask, unlocked);
  module.def("lung_mask_scratch_bytes", &medad::lung_mask_scratch_bytes, unlocked);
  module.def("nt_xent_loss", &medad::nt_xent_loss, unlocked);
  module.def("patch_discrepancy", &medad::patch_discrepancy, unlocked);
  module.def("patch_discrepancy_backward", &medad::patch_discrepancy_backward, unlocked);
  module.def("patch_nce_loss", &medad::patch_nce_loss, unlocked);
  module.def("smooth_saliency", &medad::smooth_saliency, unlocked);
  module.def("ssim", &medad::ssim, unlocked);
}
