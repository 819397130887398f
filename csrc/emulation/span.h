// A pointer that knows what it may touch: what Span<T> is in the emulation (core/gpu.cuh).
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "emulation/scheduler.h"

namespace medad::emulation {

template <class T>
class CheckedSpan {
 public:
  CheckedSpan() = default;
  CheckedSpan(T* data, std::int64_t count) : at_(data), begin_(data), end_(data + count) {}
  CheckedSpan(T* at, T* begin, T* end) : at_(at), begin_(begin), end_(end) {}
  CheckedSpan(std::nullptr_t) {}

  template <class U = T, class = std::enable_if_t<!std::is_const_v<U>>>
  operator CheckedSpan<const U>() const {
    return {at_, begin_, end_};
  }
  explicit operator bool() const { return at_ != nullptr; }

  T& operator[](std::int64_t i) const {
    check(i, 1);
    return at_[i];
  }
  T& operator*() const { return (*this)[0]; }
  T* operator->() const { return &(*this)[0]; }
  CheckedSpan operator+(std::int64_t n) const { return {at_ + n, begin_, end_}; }
  CheckedSpan operator-(std::int64_t n) const { return {at_ - n, begin_, end_}; }
  CheckedSpan& operator+=(std::int64_t n) {
    at_ += n;
    return *this;
  }

  // `count` elements from `i` on, to be moved at once as `bytes` bytes.
  T* checked(std::int64_t i, std::int64_t count, std::uintptr_t bytes) const {
    check(i, count);
    if (reinterpret_cast<std::uintptr_t>(at_ + i) % bytes != 0) {
      Scheduler::get().fail("a misaligned access of " + std::to_string(bytes) + " bytes", "Span");
    }
    return at_ + i;
  }

  template <class U>
  CheckedSpan<U> as() const {
    return {reinterpret_cast<U*>(at_), reinterpret_cast<U*>(begin_), reinterpret_cast<U*>(end_)};
  }

 private:
  void check(std::int64_t i, std::int64_t count) const {
    if (at_ + i < begin_ || at_ + i + count > end_) {
      Scheduler::get().fail("element " + std::to_string(at_ - begin_ + i) + " of a span of " +
                                std::to_string(end_ - begin_),
                            "Span");
    }
  }

  T* at_ = nullptr;
  T* begin_ = nullptr;
  T* end_ = nullptr;
};

}  // namespace medad::emulation
