// One call stack that can be left and entered again: a GPU thread of the emulation.
//
// The switch is written by hand for x86-64, since swapcontext asks the kernel for the signal mask
// each time; other processors use swapcontext all the same.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__x86_64__) && !defined(MEDAD_EMULATION_UCONTEXT)
#define MEDAD_EMULATION_ASSEMBLY
#else
#include <ucontext.h>
#endif

namespace medad::emulation {

constexpr std::size_t kStackBytes = 64 << 10;

#ifdef MEDAD_EMULATION_ASSEMBLY
extern "C" void medad_emulation_switch(void** save, void* load) asm("medad_emulation_switch");
asm(R"(
  .text
  .weak medad_emulation_switch
  .hidden medad_emulation_switch
  .type medad_emulation_switch, @function
medad_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size medad_emulation_switch, .-medad_emulation_switch
)");
#endif

class Fiber {
 public:
  Fiber() {
    // Below the stack lies a page that cannot be touched: an overflow faults instead of corrupting.
    memory_ =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, 4096, PROT_NONE);
  }
  ~Fiber() { munmap(memory_, kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next enter() starts body(), which must leave() at its end and never return.
  void start(void (*body)()) {
#ifdef MEDAD_EMULATION_ASSEMBLY
    auto* top = reinterpret_cast<std::uintptr_t*>(static_cast<char*>(memory_) + kStackBytes);
    *--top = 0;  // body's own return address, and the alignment that a call leaves
    *--top = reinterpret_cast<std::uintptr_t>(body);
    for (int saved = 0; saved < 6; ++saved) *--top = 0;
    inside_ = top;
#else
    getcontext(&inside_);
    inside_.uc_stack.ss_sp = static_cast<char*>(memory_) + 4096;
    inside_.uc_stack.ss_size = kStackBytes - 4096;
    inside_.uc_link = nullptr;
    makecontext(&inside_, body, 0);
#endif
  }

  void enter() { change(outside_, inside_); }
  void leave() { change(inside_, outside_); }

 private:
#ifdef MEDAD_EMULATION_ASSEMBLY
  using Context = void*;
  static void change(Context& from, Context& to) { medad_emulation_switch(&from, to); }
#else
  using Context = ucontext_t;
  static void change(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

  void* memory_ = nullptr;
  Context inside_{}, outside_{};
};

}  // namespace medad::emulation
