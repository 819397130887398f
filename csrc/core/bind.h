// What an op's bind.cpp is made of: checks (core/check.h), MEDAD_RUN to the kernels of a device,
// and MEDAD_BIND for those who call.
//
// MEDAD_BIND(name) puts medad::name on a list. core/module.cpp makes a function of medad_fast._C of
// each entry, and the emulation of CUDA calls the same entries (emulation/entry.h). Nothing here
// knows Python: pybind11 alone takes five seconds to compile.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/cpu_level.h"
#include "core/tensor_view.h"

namespace medad {

// What a bound function may take: const TensorView&, const std::vector<TensorView>&, const Launch&,
// double, or any integer. It may return an integer.
enum class Kind { kEnd, kTensor, kTensors, kLaunch, kReal, kInteger };
constexpr int kMaxParameters = 16;

template <class T>
constexpr Kind kind_of() {
  if (std::is_same_v<T, TensorView>) return Kind::kTensor;
  if (std::is_same_v<T, std::vector<TensorView>>) return Kind::kTensors;
  if (std::is_same_v<T, Launch>) return Kind::kLaunch;
  return std::is_floating_point_v<T> ? Kind::kReal : Kind::kInteger;
}

// An argument from where the caller keeps it: numbers as double or int64_t, the rest as it is.
template <class T>
decltype(auto) read_argument(const void* place) {
  if constexpr (kind_of<T>() == Kind::kReal) {
    return T(*static_cast<const double*>(place));
  } else if constexpr (kind_of<T>() == Kind::kInteger) {
    return T(*static_cast<const int64_t*>(place));
  } else {
    return *static_cast<const T*>(place);
  }
}

template <auto kFunction>
struct Bound;
template <class Result, class... Parameters, Result (*kFunction)(Parameters...)>
struct Bound<kFunction> {
  static_assert(sizeof...(Parameters) <= kMaxParameters);
  static constexpr Kind kKinds[] = {kind_of<std::decay_t<Parameters>>()..., Kind::kEnd};

  static int64_t call(const void* const* places) {
    return call(places, std::index_sequence_for<Parameters...>());
  }

 private:
  template <std::size_t... I>
  static int64_t call([[maybe_unused]] const void* const* places, std::index_sequence<I...>) {
    if constexpr (std::is_void_v<Result>) {
      kFunction(read_argument<std::decay_t<Parameters>>(places[I])...);
      return 0;
    } else {
      return kFunction(read_argument<std::decay_t<Parameters>>(places[I])...);
    }
  }
};

struct Binding {
  const char* name;
  const Kind* kinds;                           // of its parameters, then kEnd
  int64_t (*call)(const void* const* places);  // of its arguments; 0 where it returns nothing
  const Binding* next;

  template <class Function>
  Binding(const char* name_, Function)
      : name(name_), kinds(Function::kKinds), call(&Function::call), next(first()) {
    first() = this;
  }
  static const Binding*& first() {
    static const Binding* binding = nullptr;
    return binding;
  }
};

template <class... Unused>
[[noreturn]] void no_cuda_kernels(const Unused&...) {
  throw std::invalid_argument("this build has no CUDA kernels");
}

}  // namespace medad

#define MEDAD_BIND(function) \
  static const ::medad::Binding function##_binding(#function, ::medad::Bound<&::medad::function>())

#ifdef MEDAD_WITH_CUDA
#define MEDAD_CALL_CUDA(function, ...) function(__VA_ARGS__)
#else
#define MEDAD_CALL_CUDA(function, ...) ::medad::no_cuda_kernels(__VA_ARGS__)
#endif

// <op>_cpu(job), or <op>_cuda(job, launch).
#define MEDAD_RUN(op, job, launch)             \
  do {                                         \
    if ((launch).on_cpu()) {                   \
      MEDAD_CALL_CPU(op##_cpu, job);           \
    } else {                                   \
      MEDAD_CALL_CUDA(op##_cuda, job, launch); \
    }                                          \
  } while (0)
