// One level of the feature pyramid inside the token sequence.
#pragma once

#include <cstdint>

namespace gdseg {

struct Level {
  int64_t height, width;
  int64_t start;  // index of its first token
};

}  // namespace gdseg
