// The module medad_fast._C. The only file that knows Python: it borrows tensors, releases the
// interpreter lock, and calls what the ops have bound (core/bind.h).
#include <pybind11/pybind11.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <variant>
#include <vector>

#include "core/bind.h"
#include "core/cpu_level.h"

namespace py = pybind11;

namespace medad {
namespace {

// A tensor is the tuple (data_ptr, dtype code, shape, strides) that _native.py makes of it, or
// None.
bool read(PyObject* source, TensorView& view) {
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

bool read(PyObject* source, std::vector<TensorView>& views) {
  if (!PyList_Check(source)) return false;
  views.resize(size_t(PyList_GET_SIZE(source)));
  for (size_t i = 0; i < views.size(); ++i) {
    if (!read(PyList_GET_ITEM(source, Py_ssize_t(i)), views[i])) return false;
  }
  return true;
}

// (device index or -1, stream, threads).
bool read(PyObject* source, Launch& launch) {
  if (!PyTuple_Check(source) || PyTuple_GET_SIZE(source) != 3) return false;
  PyObject* const* items = &PyTuple_GET_ITEM(source, 0);
  launch.device = static_cast<int>(PyLong_AsLong(items[0]));
  launch.stream = PyLong_AsVoidPtr(items[1]);
  launch.threads = std::max(1, static_cast<int>(PyLong_AsLong(items[2])));
  return !PyErr_Occurred();
}

bool read(PyObject* source, double& number) {
  number = PyFloat_AsDouble(source);
  return !PyErr_Occurred();
}

bool read(PyObject* source, int64_t& number) {
  number = PyLong_AsLongLong(source);
  return !PyErr_Occurred();
}

using Argument = std::variant<int64_t, double, Launch, TensorView, std::vector<TensorView>>;

// Where the argument lies, or null if `source` is of another kind.
template <class T>
const void* read_as(PyObject* source, Argument& argument) {
  T& value = argument.emplace<T>();
  return read(source, value) ? &value : nullptr;
}

const void* read(PyObject* source, Kind kind, Argument& argument) {
  switch (kind) {
    case Kind::kTensor:
      return read_as<TensorView>(source, argument);
    case Kind::kTensors:
      return read_as<std::vector<TensorView>>(source, argument);
    case Kind::kLaunch:
      return read_as<Launch>(source, argument);
    case Kind::kReal:
      return read_as<double>(source, argument);
    default:
      return read_as<int64_t>(source, argument);
  }
}

int64_t call(const Binding& binding, PyObject* const* given, Py_ssize_t count) {
  Argument arguments[kMaxParameters];
  const void* places[kMaxParameters];
  Py_ssize_t i = 0;
  for (; i < count && binding.kinds[i] != Kind::kEnd; ++i) {
    places[i] = read(given[i], binding.kinds[i], arguments[i]);
    if (places[i] != nullptr) continue;
    PyErr_Clear();
    throw py::type_error("argument " + std::to_string(i) + ": another type expected");
  }
  if (i < count || binding.kinds[i] != Kind::kEnd) {
    throw py::type_error("another number of arguments expected, got " + std::to_string(count));
  }
  const py::gil_scoped_release unlocked;
  return binding.call(places);
}

// What Python calls, by the protocol that costs least: the smallest ops take some microseconds.
PyObject* call_from_python(PyObject* self, PyObject* const* given, Py_ssize_t count) {
  const auto* binding = static_cast<const Binding*>(PyCapsule_GetPointer(self, nullptr));
  try {
    return PyLong_FromLongLong(call(*binding, given, count));
  } catch (const py::type_error& error) {
    PyErr_Format(PyExc_TypeError, "%s: %s", binding->name, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

void define(py::module_& module, const Binding& binding) {
  const auto function = reinterpret_cast<void (*)()>(&call_from_python);
  // Never given back, as the module is never unloaded.
  auto* method = new PyMethodDef{binding.name, reinterpret_cast<PyCFunction>(function),
                                 METH_FASTCALL, nullptr};
  const py::capsule self(&binding);
  module.attr(binding.name) =
      py::reinterpret_steal<py::object>(PyCFunction_New(method, self.ptr()));
}

}  // namespace
}  // namespace medad

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled kernels of medad_fast. Called through medad_fast.ops only.";
  module.attr("version") = MEDAD_VERSION;
  module.attr("with_cuda") = MEDAD_CUDA_ARCHS_BUILT[0] != 0;
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

  using medad::kCpuLevelNames;
  module.def("cpu_level", [] { return kCpuLevelNames[int(medad::cpu_level())]; });
  module.def("best_cpu_level", [] { return kCpuLevelNames[int(medad::best_cpu_level())]; });
  module.def("set_cpu_level", [](const std::string& wanted) {
    for (int level = 0; level < int(std::size(kCpuLevelNames)); ++level) {
      if (wanted == kCpuLevelNames[level]) return medad::set_cpu_level(medad::CpuLevel(level));
    }
    throw py::value_error("level: baseline, avx2 or avx512 expected, got " + wanted);
  });

  for (const medad::Binding* binding = medad::Binding::first(); binding; binding = binding->next) {
    medad::define(module, *binding);
  }
}
