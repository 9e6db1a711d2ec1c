// Noise that counts: bits by Threefry-2x64-20 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random
// numbers: as easy as 1, 2, 3") of a key and a place, and from them uniform and normal numbers.
// It needs the header of lane code for vectors of eight doubles.

typedef uint64_t Bits __attribute__((vector_size(8 * sizeof(uint64_t))));

struct Key {
    uint64_t first, second;
};

INLINE Bits turned(Bits x, int k) { return (x << k) | (x >> (64 - k)); }

// In place of the counters (a, b) of eight places, their bits
INLINE void scramble(Bits *a, Bits *b, Key key) {
    const int turns[] = {16, 42, 12, 31, 16, 32, 24, 21};
    const uint64_t keys[] = {key.first, key.second, key.first ^ key.second ^ 0x1bd11bdaa9fc1a22};
    Bits x = *a + keys[0], y = *b + keys[1];
#pragma GCC unroll 20
    for (int round = 0; round < 20; round++) {
        x += y, y = turned(y, turns[round % 8]) ^ x;
        if (round % 4 == 3) {
            int k = round / 4 + 1;
            x += keys[k % 3], y += keys[(k + 1) % 3] + k;
        }
    }
    *a = x, *b = y;
}

// Within (0, 1), and exact in the precision T
template <class T> INLINE D uniform(Bits bits) {
    const int kept = sizeof(T) == 8 ? 52 : 23;  // of which no middle rounds to 1
    return (__builtin_convertvector((I)(bits >> (64 - kept)), D) + 0.5) * (1.0 / (1LL << kept));
}

// The quantile of the standard normal at u, over u - 1/2, as a function of w / 3 - 1 for
// w = -log(4 u (1 - u)) <= 6, to 6e-17: a fit at the points of Chebyshev
static constexpr double QUANTILE[] = {0x1.25e47a9d5da59p+2, 0x1.06704b7d927d7p+1,
    -0x1.2b26437a1db7fp-3, -0x1.058f103403483p-4, 0x1.6e17be42bd884p-5, -0x1.1e653e025382bp-7,
    -0x1.d86a70aa4fde9p-9, 0x1.6cd6f9e9aea57p-9, -0x1.ccf3f860b0c11p-12, -0x1.3f2745fcb001bp-12,
    0x1.8510ac9e0a6e6p-13, -0x1.082b39628d7c1p-16, -0x1.b5001db5210b1p-16, 0x1.98623f81fc400p-17,
    0x1.67b4c8009536ep-24, -0x1.2051ab7b9b191p-19, 0x1.9e5bae12c9baep-21, 0x1.adf166490a8bap-24,
    -0x1.7e8151105cfabp-23, 0x1.6b8d29770ddecp-25, 0x1.59d40438bd646p-26, -0x1.8e1b7ce934c66p-27,
    -0x1.f222c1eea923ap-31, 0x1.3d67bf78ab6b5p-30};

// The same for float, to 1.3e-8
static constexpr float QUANTILE_F[] = {0x1.25e47ap+2f, 0x1.06704cp+1f, -0x1.2b26aep-3f,
    -0x1.058ed2p-4f, 0x1.6e2b6ep-5f, -0x1.1e7c3ap-7f, -0x1.ddb786p-9f, 0x1.6e6e2cp-9f,
    -0x1.79b9aep-12f, -0x1.5975cap-12f, 0x1.d882a2p-14f, 0x1.4b39a6p-17f};

// Beyond the fit, number by number
template <class X> INLINE X with_tails(X z, X u, X w) {
    if (any(w > 6))
        for (int l = 0; l < 8; l++)
            if (w[l] > 6) z[l] = normal_quantile(u[l]);
    return z;
}

INLINE D normal(D u) {
    D w = -wide_log(4.0 * (u * (1.0 - u))), t = w * (1.0 / 3) - 1.0;
    D t2 = t * t, t4 = t2 * t2, t8 = t4 * t4;
    D z = series(QUANTILE, t) + t8 * (series(QUANTILE + 8, t) + t8 * series(QUANTILE + 16, t));
    return with_tails((u - 0.5) * z, u, w);
}

INLINE F cubic(const float *c, F x) { return (c[0] + c[1] * x) + (c[2] + c[3] * x) * (x * x); }

INLINE F normal(F u) {
    F w = -wide_log(4.0f * (u * (1.0f - u))), t = w * (1.0f / 3) - 1.0f;
    F t2 = t * t, t4 = t2 * t2;
    F z = cubic(QUANTILE_F, t) + t4 * (cubic(QUANTILE_F + 4, t) + t4 * cubic(QUANTILE_F + 8, t));
    return with_tails((u - 0.5f) * z, u, w);
}

// Numbers [first, first + count) of the stream that a place names, for a multiple of 32 as first: each of
// the bits of eight places, or of the upper and lower halves of their words in float
template <class T> static void draw(T *to, long first, long count, Key key, uint64_t place, bool normals) {
    typedef T Out __attribute__((vector_size(8 * sizeof(T))));
    const Bits lanes = {0, 1, 2, 3, 4, 5, 6, 7};
    const int parts = 16 / sizeof(T);
    for (long i = 0; i < count; i += 8 * parts) {
        Bits bits[] = {lanes + (uint64_t) (first + i) / parts, Bits{} + place};
        scramble(&bits[0], &bits[1], key);
        for (int part = 0; part < parts; part++) {
            long left = count - i - 8 * part;
            if (left <= 0) break;
            Out u = __builtin_convertvector(uniform<T>(bits[part % 2] << (part / 2 * 32)), Out);
            Out numbers = normals ? normal(u) : u;
            T *here = to + i + 8 * part;
            if (left >= 8) std::memcpy(here, &numbers, sizeof numbers);
            else std::memcpy(here, &numbers, left * sizeof(T));
        }
    }
}
