// Lets Python call what an emulated build has bound (core/bind.h) through ctypes: no binding
// library needed. Included once, by the source that python_tests/emulation.py writes, which binds
// further functions by MEDAD_EMULATION_ENTRY(name).
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "core/bind.h"
#include "emulation/scheduler.h"

#define MEDAD_EMULATION_EXPORT __attribute__((visibility("default")))
#define MEDAD_EMULATION_ENTRY(name) \
  static const ::medad::Binding emulation_entry_##name(#name, ::medad::Bound<&::medad::name>())

namespace medad::emulation {

struct ViewList {
  const TensorView* first;
  int64_t count;
};

// Not what is current or default anywhere, so that only what the caller passed on can be right.
inline const char kCallersStream = 0;
inline const Launch kCallersLaunch = {3, const_cast<char*>(&kCallersStream), 1};

inline std::string& last_error() {
  static std::string text;
  return text;
}

// `arguments`: a pointer each, to a TensorView (or null: absent), a ViewList, a double or an
// int64_t; for a Launch any.
inline void call(const std::string& name, void** arguments) {
  const Binding* binding = Binding::first();
  while (binding && name != binding->name) binding = binding->next;
  if (!binding) throw std::runtime_error(name + " is not bound");
  const TensorView absent;
  std::vector<TensorView> lists[kMaxParameters];
  const void* places[kMaxParameters];
  Scheduler& scheduler = Scheduler::get();
  scheduler.device = 0;
  scheduler.wanted_stream = kAnyStream;
  scheduler.wanted_device = kCallersLaunch.device;
  for (int i = 0; binding->kinds[i] != Kind::kEnd; ++i) {
    places[i] = arguments[i];
    if (binding->kinds[i] == Kind::kTensor && !arguments[i]) places[i] = &absent;
    if (binding->kinds[i] == Kind::kTensors) {
      const ViewList& list = *static_cast<const ViewList*>(arguments[i]);
      lists[i].assign(list.first, list.first + list.count);
      places[i] = &lists[i];
    }
    if (binding->kinds[i] == Kind::kLaunch) {
      places[i] = &kCallersLaunch;
      scheduler.wanted_stream = kCallersLaunch.stream;
    }
  }
  binding->call(places);
  if (scheduler.device != 0) throw std::runtime_error("the caller's device was not put back");
}

}  // namespace medad::emulation

extern "C" MEDAD_EMULATION_EXPORT int emulation_call(const char* name, void** arguments) {
  try {
    medad::emulation::call(name, arguments);
    return 0;
  } catch (const std::exception& error) {
    medad::emulation::last_error() = error.what();
    return 1;
  }
}

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
