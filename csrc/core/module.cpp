// The module medad_fast._C. The only file that knows Python: it borrows tensors, releases the
// interpreter lock, and calls what the ops have bound (core/bind.h).
#include <pybind11/pybind11.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "core/bind.h"
#include "core/cpu_level.h"

namespace py = pybind11;

namespace medad {
namespace {

// An argument, wherever its kind puts it.
struct Argument {
  TensorView view;
  std::vector<TensorView> views;
  Launch launch;
  double real;
  int64_t integer;

  // Its place, or null where `source` is of another kind.
  const void* read(Kind kind, PyObject* source) {
    switch (kind) {
      case Kind::kTensor:
        return read(source, view) ? &view : nullptr;
      case Kind::kTensors:
        return read(source, views) ? &views : nullptr;
      case Kind::kLaunch:
        return read(source, launch) ? &launch : nullptr;
      case Kind::kReal:
        real = PyFloat_AsDouble(source);
        return PyErr_Occurred() ? nullptr : &real;
      default:
        integer = PyLong_AsLongLong(source);
        return PyErr_Occurred() ? nullptr : &integer;
    }
  }

 private:
  // The tuple (data_ptr, dtype code, shape, strides) that _native.py makes of a tensor, or None.
  static bool read(PyObject* source, TensorView& view) {
    if (source == Py_None) return true;
    if (!PyTuple_Check(source) || PyTuple_GET_SIZE(source) != 4) return false;
    PyObject* const* items = &PyTuple_GET_ITEM(source, 0);
    if (!PyTuple_Check(items[2]) || !PyTuple_Check(items[3])) return false;
    const Py_ssize_t dims = PyTuple_GET_SIZE(items[2]);
    if (dims > kMaxDims || PyTuple_GET_SIZE(items[3]) != dims) return false;
    const long code = PyLong_AsLong(items[1]);
    if (code < 0 || code >= long(std::size(kDTypeNames))) return false;
    view.data = PyLong_AsVoidPtr(items[0]);
    view.dtype = static_cast<DType>(code);
    view.dims = static_cast<int>(dims);
    for (Py_ssize_t d = 0; d < dims; ++d) {
      view.shape[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(items[2], d));
      view.strides[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(items[3], d));
    }
    return !PyErr_Occurred();
  }

  static bool read(PyObject* source, std::vector<TensorView>& views) {
    if (!PyList_Check(source)) return false;
    views.resize(size_t(PyList_GET_SIZE(source)));
    for (size_t i = 0; i < views.size(); ++i) {
      if (!read(PyList_GET_ITEM(source, Py_ssize_t(i)), views[i])) return false;
    }
    return true;
  }

  // (device index or -1, stream, threads).
  static bool read(PyObject* source, Launch& launch) {
    if (!PyTuple_Check(source) || PyTuple_GET_SIZE(source) != 3) return false;
    PyObject* const* items = &PyTuple_GET_ITEM(source, 0);
    launch.device = static_cast<int>(PyLong_AsLong(items[0]));
    launch.stream = PyLong_AsVoidPtr(items[1]);
    launch.threads = std::max(1, static_cast<int>(PyLong_AsLong(items[2])));
    return !PyErr_Occurred();
  }
};

int64_t call(const Binding& binding, const py::args& given) {
  Argument arguments[kMaxParameters];
  const void* places[kMaxParameters];
  size_t count = 0;
  for (; binding.kinds[count] != Kind::kEnd && count < given.size(); ++count) {
    places[count] = arguments[count].read(binding.kinds[count], given[count].ptr());
    if (places[count] != nullptr) continue;
    PyErr_Clear();
    throw py::type_error(binding.name + (": argument " + std::to_string(count)) +
                         ": another kind expected");
  }
  if (binding.kinds[count] != Kind::kEnd || count != given.size()) {
    throw py::type_error(binding.name + std::string(": another number of arguments expected"));
  }
  const py::gil_scoped_release unlocked;
  return binding.call(places);
}

}  // namespace
}  // namespace medad

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
  for (int code = 0; code < int(std::size(medad::kDTypeNames)); ++code) {
    dtypes[medad::kDTypeNames[code]] = code;
  }
  module.attr("dtypes") = dtypes;

  module.def("cpu_level", [] { return medad::cpu_level_name(medad::cpu_level()); });
  module.def("best_cpu_level", [] { return medad::cpu_level_name(medad::best_cpu_level()); });
  module.def("set_cpu_level", [](const std::string& wanted) {
    for (auto value :
         {medad::CpuLevel::kBaseline, medad::CpuLevel::kAvx2, medad::CpuLevel::kAvx512}) {
      if (wanted == medad::cpu_level_name(value)) return medad::set_cpu_level(value);
    }
    throw py::value_error("level: baseline, avx2 or avx512 expected, got " + wanted);
  });

  for (const medad::Binding* binding = medad::Binding::first(); binding; binding = binding->next) {
    module.def(binding->name,
               [binding](const py::args& given) { return medad::call(*binding, given); });
  }
}
