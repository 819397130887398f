// Checks of what a kernel is about to trust. The Python layer has checked before, with friendlier
// words; these hold for anybody who calls the extension directly.
#pragma once

#include <sstream>
#include <stdexcept>

#define MEDAD_CHECK(condition, message)                         \
  do {                                                          \
    if (!(condition)) {                                         \
      std::ostringstream medad_check_text;                      \
      medad_check_text << message << " (" << #condition << ")"; \
      throw std::invalid_argument(medad_check_text.str());      \
    }                                                           \
  } while (0)
