// Lets Python call a launcher of the emulated build through ctypes: no binding library needed.
// Included once, by the source that python_tests/emulation.py writes.
//
// MEDAD_EMULATION_ENTRY(name) makes `int emulated_name(void** arguments)`, which reads one pointer
// an argument: to a TensorView, to an array of them (ViewList), to a double or to an int64_t.
#pragma once

#include <exception>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/tensor_view.h"
#include "emulation/scheduler.h"

#define MEDAD_EMULATION_EXPORT __attribute__((visibility("default")))

namespace medad::emulation {

struct ViewList {
  const TensorView* first;
  int64_t count;
};

// Not what is current or default anywhere, so that only what the caller passed on can be right.
constexpr int kCallersDevice = 3;
inline const char kCallersStream = 0;

template <class T>
T read(void* argument) {
  if constexpr (std::is_same_v<T, TensorView>) {
    return *static_cast<const TensorView*>(argument);
  } else if constexpr (std::is_same_v<T, std::vector<TensorView>>) {
    const ViewList& list = *static_cast<const ViewList*>(argument);
    return {list.first, list.first + list.count};
  } else if constexpr (std::is_same_v<T, Launch>) {
    return {kCallersDevice, const_cast<char*>(&kCallersStream), 1};
  } else if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(*static_cast<const double*>(argument));
  } else {
    return static_cast<T>(*static_cast<const int64_t*>(argument));
  }
}

inline std::string& last_error() {
  static std::string text;
  return text;
}

template <class... Parameters, std::size_t... I>
int invoke(void (*function)(Parameters...), void** arguments, std::index_sequence<I...>) {
  Scheduler& scheduler = Scheduler::get();
  scheduler.device = 0;
  const bool placed = (std::is_same_v<std::decay_t<Parameters>, Launch> || ...);
  scheduler.wanted_device = kCallersDevice;
  scheduler.wanted_stream = placed ? &kCallersStream : kAnyStream;
  try {
    std::tuple<std::decay_t<Parameters>...> values{read<std::decay_t<Parameters>>(arguments[I])...};
    function(std::get<I>(values)...);
    if (scheduler.device != 0) throw std::runtime_error("the caller's device was not put back");
    return 0;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return 1;
  }
}

template <class... Parameters>
int invoke(void (*function)(Parameters...), void** arguments) {
  return invoke(function, arguments, std::index_sequence_for<Parameters...>{});
}

}  // namespace medad::emulation

extern "C" MEDAD_EMULATION_EXPORT const char* emulation_error() {
  return medad::emulation::last_error().c_str();
}

extern "C" MEDAD_EMULATION_EXPORT void emulation_set_order(int order, unsigned seed) {
  auto& scheduler = medad::emulation::Scheduler::get();
  scheduler.order = static_cast<medad::emulation::Order>(order);
  scheduler.seed = seed;
}

extern "C" MEDAD_EMULATION_EXPORT long emulation_launches() {
  return medad::emulation::Scheduler::get().launches;
}

#define MEDAD_EMULATION_ENTRY(name)                                         \
  extern "C" MEDAD_EMULATION_EXPORT int emulated_##name(void** arguments) { \
    return medad::emulation::invoke(&::medad::name, arguments);             \
  }
