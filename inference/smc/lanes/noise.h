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
            Out numbers = normals ? quantile(u) : u;
            T *here = to + i + 8 * part;
            if (left >= 8) std::memcpy(here, &numbers, sizeof numbers);
            else std::memcpy(here, &numbers, left * sizeof(T));
        }
    }
}
