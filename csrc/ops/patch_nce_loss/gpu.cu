// PatchNCE on the GPU: bound by the multiplications, so everything is tiles for the tensor cores.
//
// rows_kernel: a block takes 32 rows of one image of one layer (128 blocks at 16 x 256 rows, enough
// for one wave) and walks over the keys in tiles, keeping a running maximum and sum per row. Where
// the rows' logits fit in shared memory they stay there, and the same block goes on to the query
// gradient: 2 matmul units. gradient_kernel recomputes logits from the saved log-sum-exp for the
// key gradient, and for the query gradient of longer rows: 2 more units a side. No S x S matrix
// reaches global memory, each number is written by one thread in one fixed order, and the layers of
// a call share one launch, since small ones would otherwise be bound by launching.

#include <cmath>

#include "core/row_tiles.cuh"
#include "ops/patch_nce_loss/patch_nce_loss.h"

namespace medad {
namespace {

using namespace row_tiles;

constexpr int kMaxLayers = 16;  // of one launch; more go in several

// PatchNceLayer, as the kernels see it.
template <class T, class C>
struct Layer {
  Span<const T> query, key;
  Span<const C> weight;
  Span<C> rows, log_sum_exp;
  Span<T> query_gradient, key_gradient;
  int64_t groups, size, depth;
  double uniform_weight;
};

template <class T, class C>
struct Layers {
  Layer<T, C> layer[kMaxLayers];
  int64_t first_block[kMaxLayers + 1];
  bool whole[kMaxLayers];  // the rows' logits stay in shared memory
  int count;
  C inverse_temperature;
  bool exact_cut;
};

// Which layer, image and tile of rows a block works on.
struct Place {
  int layer;
  int64_t tile, group;
};

template <class T, class C>
__device__ Place place_of(const Layers<T, C>& layers, int64_t block) {
  int l = 0;
  while (block >= layers.first_block[l + 1]) ++l;
  const int64_t tiles = (layers.layer[l].size + kRows - 1) / kRows;
  const int64_t number = block - layers.first_block[l];
  return {l, number % tiles, number / tiles};
}

template <Precision kPrecision, class T, class C>
__global__ void __launch_bounds__(kThreads, 2) rows_kernel(const Layers<T, C> layers) {
  MEDAD_DYNAMIC_SHARED(C, staged);
  constexpr bool kPrefetch = kPrecision != Precision::kTf32;  // where it would spill registers
  const Span<C> strip = staged + kStagedElements<C>;
  const Place place = place_of(layers, blockIdx.x);
  const Layer<T, C>& layer = layers.layer[place.layer];
  const bool whole = layers.whole[place.layer];
  const int64_t size = layer.size, depth = layer.depth;
  const int64_t first = place.group * size, row = place.tile * kRows;
  const int64_t rows = size - row < kRows ? size - row : kRows;
  const int step = int(whole ? strip_step<C>(size) : strip_step<C>(1));
  const Span<const T> query = layer.query + (first + row) * depth;
  const Span<const T> key = layer.key + first * depth;
  const int my_row = threadIdx.x / kRowThreads, my_part = threadIdx.x % kRowThreads;
  const C inverse_temperature = layers.inverse_temperature;

  RunningSoftmax<C> softmax;
  for (int64_t column = 0; column < size; column += kTileColumns<C>) {
    const int64_t columns = size - column < kTileColumns<C> ? size - column : kTileColumns<C>;
    const Span<C> tile = strip + (whole ? column : 0);
    multiply_rows_by_rows<kPrecision, kPrefetch, T, C>(query, rows, key + column * depth, columns,
                                                       depth, staged, tile, step);
    for (int c = my_part; c < columns; c += kRowThreads) {
      softmax.add(tile[my_row * step + c], column + c == row + my_row, inverse_temperature);
    }
  }
  softmax.finish(inverse_temperature, layers.exact_cut, C(kCutFill));

  const C distance = (softmax.positive - softmax.top) * inverse_temperature;
  const C own = std::exp(distance), sum = own + softmax.others;
  const int64_t out = first + row + my_row;
  if (my_row < rows && my_part == 0) {
    layer.log_sum_exp[out] = softmax.top * inverse_temperature + std::log(sum);
    layer.rows[out] =
        distance > C(-1) ? std::log1p(softmax.others / own) : std::log(sum) - distance;
  }
  if (!whole || !layer.query_gradient) return;

  C factor = 0;
  if (my_row < rows) {
    factor = layer.weight ? layer.weight[out] : C(layer.uniform_weight);
    factor *= inverse_temperature / sum;
  }
  for (int64_t c = my_part; c < step - 4; c += kRowThreads) {
    C& g = strip[my_row * step + c];
    if (c == row + my_row) {
      g = -softmax.others * factor;
    } else if (c < size) {
      g = std::exp((g - softmax.top) * inverse_temperature) * factor;
    } else {
      g = 0;
    }
  }
  for (int64_t d = 0; d < depth; d += kWidth<C>) {
    Sum<C> gradient = {};
    multiply_tile_by_rows<kPrecision, T, C>(gradient, Span<const C>(strip), step, key, size, depth,
                                            d, staged);
    write_sum<T, C>(gradient, layer.query_gradient + (first + row) * depth, rows, depth, d);
  }
}

// blockIdx.y = 0: the query gradient of the layers whose logits rows_kernel did not keep, own rows
// are queries; 1: the key gradient, own rows are keys.
template <Precision kPrecision, class T, class C>
__global__ void __launch_bounds__(kThreads, 2)
    gradient_kernel(const Layers<T, C> layers, bool query_side) {
  MEDAD_DYNAMIC_SHARED(C, staged);
  constexpr int kStep = kTileColumns<C> + 4;
  const Span<C> tile = staged + kStagedElements<C>;
  const Place place = place_of(layers, blockIdx.x);
  const Layer<T, C>& layer = layers.layer[place.layer];
  const bool for_query = query_side && blockIdx.y == 0;
  if (for_query && layers.whole[place.layer]) return;
  const int64_t size = layer.size, depth = layer.depth;
  const int64_t first = place.group * size, row = place.tile * kRows;
  const int64_t rows = size - row < kRows ? size - row : kRows;
  const Span<const T> own_side = (for_query ? layer.query : layer.key) + first * depth;
  const Span<const T> other_side = (for_query ? layer.key : layer.query) + first * depth;
  const Span<T> out = for_query ? layer.query_gradient : layer.key_gradient;
  const int my_row = threadIdx.x / kRowThreads, my_part = threadIdx.x % kRowThreads;
  const C inverse_temperature = layers.inverse_temperature;

  for (int64_t d = 0; d < depth; d += kWidth<C>) {
    Sum<C> gradient = {};
    for (int64_t column = 0; column < size; column += kTileColumns<C>) {
      const int64_t columns = size - column < kTileColumns<C> ? size - column : kTileColumns<C>;
      multiply_rows_by_rows<kPrecision, false, T, C>(own_side + row * depth, rows,
                                                     other_side + column * depth, columns, depth,
                                                     staged, tile, kStep);
      for (int c = my_part; c < kTileColumns<C>; c += kRowThreads) {
        C& g = tile[my_row * kStep + c];
        if (my_row >= rows || c >= columns) {
          g = 0;
          continue;
        }
        const int64_t own = row + my_row, other = column + c;
        const int64_t i = first + (for_query ? own : other);  // the row of the loss
        const C p = own == other ? std::expm1(-layer.rows[i])
                                 : std::exp(g * inverse_temperature - layer.log_sum_exp[i]);
        g = p * inverse_temperature * (layer.weight ? layer.weight[i] : C(layer.uniform_weight));
      }
      multiply_tile_by_rows<kPrecision, T, C>(gradient, Span<const C>(tile), kStep,
                                              other_side + column * depth, columns, depth, d,
                                              staged);
    }
    write_sum<T, C>(gradient, out + (first + row) * depth, rows, depth, d);
  }
}

// Layers [from, from + kMaxLayers) of the call.
template <Precision kPrecision, class T, class C>
void launch(const PatchNceJob& job, void* stream, int64_t from, int64_t limit) {
  Layers<T, C> layers = {};
  layers.inverse_temperature = C(1 / job.temperature);
  layers.exact_cut = job.exact_cut;
  int64_t kept = 1, blocks = 0;
  bool query_side = false, key_side = false;
  for (int64_t l = from; l < job.count && l < from + kMaxLayers; ++l) {
    const PatchNceLayer& own = job.layers[l];
    const int64_t rows = own.groups * own.size, elements = rows * own.depth;
    if (rows == 0) continue;
    const int n = layers.count++;
    layers.layer[n] = {span_of_extent<const T>(own.query, elements),
                       span_of_extent<const T>(own.key, elements),
                       span_of_extent<const C>(own.weight, rows),
                       span_of_extent<C>(own.rows, rows),
                       span_of_extent<C>(own.log_sum_exp, rows),
                       span_of_extent<T>(own.query_gradient, elements),
                       span_of_extent<T>(own.key_gradient, elements),
                       own.groups,
                       own.size,
                       own.depth,
                       own.uniform_weight};
    layers.whole[n] =
        own.query_gradient && shared_elements<C>(own.size) * int64_t(sizeof(C)) <= limit;
    query_side |= own.query_gradient && !layers.whole[n];
    key_side |= own.key_gradient != nullptr;
    if (layers.whole[n] && own.size > kept) kept = own.size;
    layers.first_block[n] = blocks;
    blocks += own.groups * ((own.size + kRows - 1) / kRows);
    layers.first_block[n + 1] = blocks;
  }
  if (layers.count == 0) return;
  const dim3 grid = grid_of(blocks, "query");
  const int64_t rows_bytes = shared_elements<C>(kept) * int64_t(sizeof(C));
  allow_shared(rows_kernel<kPrecision, T, C>, rows_bytes);
  MEDAD_LAUNCH((rows_kernel<kPrecision, T, C>), grid, dim3(kThreads), std::size_t(rows_bytes),
               stream, layers);
  if (!query_side && !key_side) return;
  const int64_t bytes = shared_elements<C>(1) * int64_t(sizeof(C));
  allow_shared(gradient_kernel<kPrecision, T, C>, bytes);
  MEDAD_LAUNCH((gradient_kernel<kPrecision, T, C>),
               dim3(grid.x, unsigned(query_side) + unsigned(key_side)), dim3(kThreads),
               std::size_t(bytes), stream, layers, query_side);
}

}  // namespace

void patch_nce_loss_cuda(const PatchNceJob& job, const Launch& where) {
  const DeviceGuard guard(where.device);
  const int limit = shared_limit(where.device);
  // 16-bit inputs are exact in TF32; g is rounded to its 11 bits.
  with_precision<Precision::kTf32>(job.dtype, [&](auto zero, auto compute, auto precision) {
    for (int64_t from = 0; from < job.count; from += kMaxLayers) {
      launch<precision.value, decltype(zero), decltype(compute)>(job, where.stream, from, limit);
    }
  });
}

}  // namespace medad
