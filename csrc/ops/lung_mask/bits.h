// Binary images as rows of words, a pixel a bit, the first pixel lowest; bits beyond the width are
// 0. Shared by the CPU (64-bit words) and the GPU (32-bit words). Outside the image there is
// neither foreground nor background: a 3 x 3 square only counts its pixels inside.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace medad {

// The words at a place and at either side, bit i of `left` being the pixel before bit i of `here`.
template <class Word>
struct Neighbours {
  Word left, here, right;
};

struct BitShape {
  int64_t height, words;  // words in a row
  int last_bits;          // pixels in the last word of a row
};

template <class Word>
MEDAD_HD BitShape bit_shape(int64_t height, int64_t width) {
  constexpr int kBits = int(sizeof(Word)) * 8;
  const int64_t words = (width + kBits - 1) / kBits;
  return {height, words, int(width - (words - 1) * kBits)};
}

// All pixels of a word of a row.
template <class Word>
MEDAD_HD Word whole_word(const BitShape& shape, int64_t word) {
  constexpr int kBits = int(sizeof(Word)) * 8;
  return word + 1 < shape.words || shape.last_bits == kBits ? ~Word(0)
                                                            : (Word(1) << shape.last_bits) - 1;
}

// Background beyond the ends of the row.
template <class Word, class Row>
MEDAD_HD Neighbours<Word> beside(const Row& row, const BitShape& shape, int64_t word) {
  constexpr int kTop = int(sizeof(Word)) * 8 - 1;
  const Word here = row[word];
  const Word before = word > 0 ? row[word - 1] >> kTop : Word(0);
  const Word after = word + 1 < shape.words ? row[word + 1] << kTop : Word(0);
  return {Word(here << 1 | before), here, Word(here >> 1 | after)};
}

template <class Word, class Row>
MEDAD_HD Word dilated_row(const Row& row, const BitShape& shape, int64_t word) {
  const Neighbours<Word> at = beside<Word>(row, shape, word);
  return Word((at.left | at.here | at.right) & whole_word<Word>(shape, word));
}

template <class Word, class Row>
MEDAD_HD Word eroded_row(const Row& row, const BitShape& shape, int64_t word) {
  Neighbours<Word> at = beside<Word>(row, shape, word);
  // The outermost pixels stand in for what lies beyond.
  if (word == 0) at.left |= at.here & 1;
  if (word == shape.words - 1) at.right |= at.here & (Word(1) << (shape.last_bits - 1));
  return at.left & at.here & at.right;
}

// 3 x 3 around a word; `image` starts at the first row.
template <class Word, class Image>
MEDAD_HD Word dilated(const Image& image, const BitShape& shape, int64_t row, int64_t word) {
  Word result = dilated_row<Word>(image + row * shape.words, shape, word);
  if (row > 0) result |= dilated_row<Word>(image + (row - 1) * shape.words, shape, word);
  if (row + 1 < shape.height) {
    result |= dilated_row<Word>(image + (row + 1) * shape.words, shape, word);
  }
  return result;
}

template <class Word, class Image>
MEDAD_HD Word eroded(const Image& image, const BitShape& shape, int64_t row, int64_t word) {
  Word result = eroded_row<Word>(image + row * shape.words, shape, word);
  if (row > 0) result &= eroded_row<Word>(image + (row - 1) * shape.words, shape, word);
  if (row + 1 < shape.height) {
    result &= eroded_row<Word>(image + (row + 1) * shape.words, shape, word);
  }
  return result;
}

// Bits of a word that lie in columns [first, last] of the row.
template <class Word>
MEDAD_HD Word between_columns(int64_t word, int64_t first, int64_t last) {
  constexpr int kBits = int(sizeof(Word)) * 8;
  const int64_t start = first - word * kBits, stop = last - word * kBits;
  if (start >= kBits || stop < 0) return 0;
  const Word from = start <= 0 ? ~Word(0) : Word(~Word(0) << start);
  const Word to = stop >= kBits - 1 ? ~Word(0) : Word(~Word(0) >> (kBits - 1 - stop));
  return from & to;
}

}  // namespace medad
