// CUDA errors as exceptions, and the device for the length of a call.
#pragma once

#ifdef MEDAD_EMULATION
#include "emulation/cuda_names.h"
#else
#include <cuda_runtime.h>
#endif

#include <stdexcept>
#include <string>

namespace medad {

inline void cuda_check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Sets the current device and puts the caller's back: torch may be on another one.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    cuda_check(cudaGetDevice(&previous_), "reading the current device");
    if (device != previous_) cuda_check(cudaSetDevice(device), "choosing the device");
    changed_ = device != previous_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace medad
