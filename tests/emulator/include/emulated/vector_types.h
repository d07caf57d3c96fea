// Short vectors and dim3, with CUDA's sizes and alignments.
#pragma once

#define EMULATED_VECTOR2(name, type, bytes) \
  struct alignas(bytes) name {              \
    type x, y;                              \
  };                                        \
  static inline name make_##name(type x, type y) { return name{x, y}; }
#define EMULATED_VECTOR3(name, type) \
  struct name {                      \
    type x, y, z;                    \
  };                                 \
  static inline name make_##name(type x, type y, type z) { return name{x, y, z}; }
#define EMULATED_VECTOR4(name, type, bytes) \
  struct alignas(bytes) name {              \
    type x, y, z, w;                        \
  };                                        \
  static inline name make_##name(type x, type y, type z, type w) { return name{x, y, z, w}; }

EMULATED_VECTOR2(float2, float, 8)
EMULATED_VECTOR2(int2, int, 8)
EMULATED_VECTOR2(uint2, unsigned int, 8)
EMULATED_VECTOR2(ushort2, unsigned short, 4)
EMULATED_VECTOR3(float3, float)
EMULATED_VECTOR3(uint3, unsigned int)
EMULATED_VECTOR4(float4, float, 16)
EMULATED_VECTOR4(int4, int, 16)
EMULATED_VECTOR4(uint4, unsigned int, 16)
EMULATED_VECTOR4(ushort4, unsigned short, 8)

#undef EMULATED_VECTOR2
#undef EMULATED_VECTOR3
#undef EMULATED_VECTOR4

struct dim3 {
  unsigned int x, y, z;
  constexpr dim3(unsigned int x_in = 1, unsigned int y_in = 1, unsigned int z_in = 1) : x(x_in), y(y_in), z(z_in) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
