// Decompositions of matrices of V, and solutions by triangles.  Results are written to the last arguments,
// which share no memory with others.
#include <array>
#include <limits>

INLINE void swap(M where, V &x, V &y) {
    V old = x;
    x = pick(where, y, x), y = pick(where, old, y);
}

// -------------------------------------------------------------------------------------------- tiles
// Sums of products are taken for a tile of R by S entries at once, which stay in registers: each number that
// is read serves R or S of them, and no addition waits for the one before.

#ifdef __clang__
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif
static const long R = 4, S = 3;  // 12 sums, 3 numbers of a row and one of a column: 16 registers

// s -= a b, of r rows of a (row x row of a numbers apart) and s columns of b, over `count` numbers
template <long r, long c> INLINE void
subtract(V (&s)[r][c], const V *a, long row, const V *b, long next, long column, long count) {
    for (long p = 0; p < count; p++)
        UNROLLED for (long i = 0; i < r; i++)
            UNROLLED for (long j = 0; j < c; j++) s[i][j] -= a[i * row + p] * b[p * next + j * column];
}

template <long r, long c> INLINE void loaded(V (&s)[r][c], const V *a, long row) {
    UNROLLED for (long i = 0; i < r; i++)
        UNROLLED for (long j = 0; j < c; j++) s[i][j] = a[i * row + j];
}

template <long r, long c> INLINE void kept(const V (&s)[r][c], V *a, long row) {
    UNROLLED for (long i = 0; i < r; i++)
        UNROLLED for (long j = 0; j < c; j++) a[i * row + j] = s[i][j];
}

// f, told how many entries it has to do (a number known to the compiler) and the first of them: all of n
template <long size, class F> INLINE void by_tiles(long from, long to, F f) {
    for (; from + size <= to; from += size) f(std::integral_constant<long, size>(), from);
    for (; from < to; from++) f(std::integral_constant<long, 1>(), from);
}

// x = a b.  The columns of b that are read again and again lie together, to stay near
template <long n, long k, long m> static void product(const V *a, const V *b, V *x) {
    by_tiles<S>(0, m, [&](auto columns, long j) {
        constexpr long c = decltype(columns)::value;
        std::vector<std::array<V, c>> panel(k);
        for (long p = 0; p < k; p++)
            for (long e = 0; e < c; e++) panel[p][e] = b[p * m + j + e];
        by_tiles<R>(0, n, [&](auto rows, long i) {
            constexpr long r = decltype(rows)::value;
            V s[r][c] = {};
            subtract(s, a + i * k, k, &panel[0][0], c, 1, k);
            for (long e = 0; e < r; e++)
                for (long f = 0; f < c; f++) x[(i + e) * m + j + f] = splat(0) - s[e][f];
        });
    });
}

// The factor, and the first pivot that is not positive, or 0 where there is none.  By columns of tiles, each
// less the products of those before it
template <long n> static void cholesky(const V *a, V *l, V *failed) {
    *failed = splat(0);
    by_tiles<S>(0, n, [&](auto columns, long j) {
        constexpr long c = decltype(columns)::value;
        V top[c][c], inverse[c];
        loaded(top, a + j * n + j, n);
        subtract(top, l + j * n, n, l + j * n, 1, n, j);
        for (long e = 0; e < c; e++) {
            for (long p = 0; p < e; p++) top[e][e] -= top[e][p] * top[e][p];
            *failed = pick((*failed == 0) & ~(top[e][e] > 0), splat(j + e + 1), *failed);
            top[e][e] = root(top[e][e]), inverse[e] = splat(1) / top[e][e];
            for (long i = e + 1; i < c; i++) {
                for (long p = 0; p < e; p++) top[i][e] -= top[i][p] * top[e][p];
                top[i][e] *= inverse[e], top[e][i] = splat(0);
            }
        }
        kept(top, l + j * n + j, n);
        for (long i = 0; i < j; i++)
            for (long e = 0; e < c; e++) l[i * n + j + e] = splat(0);
        by_tiles<R>(j + c, n, [&](auto rows, long i) {
            constexpr long r = decltype(rows)::value;
            V s[r][c];
            loaded(s, a + i * n + j, n);
            subtract(s, l + i * n, n, l + j * n, 1, n, j);
            for (long e = 0; e < c; e++)
                for (long k = 0; k < r; k++) {
                    for (long p = 0; p < e; p++) s[k][e] -= s[k][p] * top[e][p];
                    s[k][e] *= inverse[e];
                }
            kept(s, l + i * n + j, n);
        });
    });
}

template <long n, long m, bool unit> static void solve_lower(const V *a, const V *b, V *x) {
    by_tiles<S>(0, m, [&](auto columns, long j) {
        constexpr long c = decltype(columns)::value;
        std::vector<std::array<V, c>> found(n);
        by_tiles<R>(0, n, [&](auto rows, long i) {
            constexpr long r = decltype(rows)::value;
            V s[r][c];
            loaded(s, b + i * m + j, m);
            subtract(s, a + i * n, n, &found[0][0], c, 1, i);
            for (long k = 0; k < r; k++) {
                V inverse = unit ? splat(1) : splat(1) / a[(i + k) * n + i + k];
                for (long e = 0; e < c; e++) {
                    for (long p = 0; p < k; p++) s[k][e] -= a[(i + k) * n + i + p] * s[p][e];
                    found[i + k][e] = s[k][e] *= inverse;
                }
            }
            kept(s, x + i * m + j, m);
        });
    });
}

// From the last rows up: the tile that comes after t rows ends n - t rows from the top
template <long n, long m, bool unit> static void solve_upper(const V *a, const V *b, V *x) {
    by_tiles<S>(0, m, [&](auto columns, long j) {
        constexpr long c = decltype(columns)::value;
        std::vector<std::array<V, c>> found(n);
        by_tiles<R>(0, n, [&](auto rows, long t) {
            constexpr long r = decltype(rows)::value;
            long i = n - t - r, below = n - t;
            V s[r][c];
            loaded(s, b + i * m + j, m);
            subtract(s, a + i * n + below, n, &found[0][0] + below * c, c, 1, t);
            for (long k = r - 1; k >= 0; k--) {
                V inverse = unit ? splat(1) : splat(1) / a[(i + k) * n + i + k];
                for (long e = 0; e < c; e++) {
                    for (long p = k + 1; p < r; p++) s[k][e] -= a[(i + k) * n + i + p] * s[p][e];
                    found[i + k][e] = s[k][e] *= inverse;
                }
            }
            kept(s, x + i * m + j, m);
        });
    });
}

// By Gauss and Jordan, each lane choosing its own pivots
template <long n> static void inverse(const V *a, V *x, V *failed) {
    std::vector<V> w(n * n);
    *failed = splat(0);
    for (long k = 0; k < n * n; k++) w[k] = a[k], x[k] = splat(k % (n + 1) == 0);
    for (long j = 0; j < n; j++) {
        for (long i = j + 1; i < n; i++) {
            M larger = absolute(w[i * n + j]) > absolute(w[j * n + j]);
            for (long c = 0; c < n; c++) {
                swap(larger, w[i * n + c], w[j * n + c]);
                swap(larger, x[i * n + c], x[j * n + c]);
            }
        }
        V pivot = w[j * n + j];
        *failed = pick((*failed == 0) & ~(absolute(pivot) > 0), splat(j + 1), *failed);
        for (long c = 0; c < n; c++) w[j * n + c] /= pivot, x[j * n + c] /= pivot;
        for (long i = 0; i < n; i++) {
            if (i == j) continue;
            V factor = w[i * n + j];
            for (long c = 0; c < n; c++) {
                w[i * n + c] -= factor * w[j * n + c];
                x[i * n + c] -= factor * x[j * n + c];
            }
        }
    }
}

// The inverse of L L^T
template <long n> static void inverse_of_product(const V *l, V *x) {
    std::vector<V> identity(n * n), y(n * n), transposed(n * n);
    for (long k = 0; k < n * n; k++) identity[k] = splat(k % (n + 1) == 0);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) transposed[j * n + i] = l[i * n + j];
    solve_lower<n, n, false>(l, identity.data(), y.data());
    solve_upper<n, n, false>(transposed.data(), y.data(), x);
}

// ---------------------------------------------------------------------- elimination with row exchanges

// In each lane the j-th of n rows changes places with the one whose number, from 1 on, is `with`
template <long n, long m> INLINE void exchange(V *x, long j, V with) {
    for (long i = j + 1; i < n; i++) {
        M here = with == splat(i + 1);
        for (long c = 0; c < m; c++) swap(here, x[i * m + c], x[j * m + c]);
    }
}

// Row exchanges in order, or in the opposite order, which undoes them
template <long n, long m, bool back> static void exchanged(const V *pivots, const V *b, V *x) {
    for (long k = 0; k < n * m; k++) x[k] = b[k];
    for (long k = 0; k < n; k++) {
        long j = back ? n - 1 - k : k;
        exchange<n, m>(x, j, pivots[j]);
    }
}

// L of unit diagonal and U, in one matrix: L U is A after the row exchanges of `pivots`, by which each lane
// has the largest number of a column as its pivot.  `failed` is the number, from 1 on, of the first pivot
// that is 0, or 0 where there is none
template <long n> static void factors(const V *a, V *lu, V *pivots, V *failed) {
    *failed = splat(0);
    for (long k = 0; k < n * n; k++) lu[k] = a[k];
    for (long j = 0; j < n; j++) {
        V chosen = splat(j + 1), size = absolute(lu[j * n + j]);
        for (long i = j + 1; i < n; i++) {
            M larger = absolute(lu[i * n + j]) > size;
            chosen = pick(larger, splat(i + 1), chosen);
            size = pick(larger, absolute(lu[i * n + j]), size);
        }
        pivots[j] = chosen;
        exchange<n, n>(lu, j, chosen);
        M none = lu[j * n + j] == 0;
        *failed = pick((*failed == 0) & none, splat(j + 1), *failed);
        V inverse = pick(none, splat(0), splat(1) / lu[j * n + j]);
        for (long i = j + 1; i < n; i++) {
            V factor = lu[i * n + j] *= inverse;
            for (long c = j + 1; c < n; c++) lu[i * n + c] -= factor * lu[j * n + c];
        }
    }
}

// ------------------------------------------------------------------------------------------- spectra
// By the rotations of Jacobi, until no lane needs one more; a lane that needs none stays as it is.  Of a
// matrix whose squares have no finite sum all is NaN.

static const long SWEEPS = 60;  // far more than it takes

// Cosine and sine of the angle that is nearest to 0 and makes `product` 0, of two numbers or columns whose
// squares have this difference
INLINE void angle(M needed, V difference, V product, V *c, V *s) {
    V slope = difference / (product + product);
    V tangent = pick(slope < 0, splat(-1), splat(1)) / (absolute(slope) + root(slope * slope + splat(1)));
    tangent = pick(needed, tangent, splat(0));
    *c = splat(1) / root(tangent * tangent + splat(1)), *s = tangent * *c;
}

INLINE void rotate(V c, V s, V &x, V &y) {
    V old = x;
    x = c * x - s * y, y = s * old + c * y;
}

// Eigenvalues, in ascending order, and eigenvectors of the symmetric matrix whose lower triangle is in `a`
template <long n> static void spectrum(const V *a, V *values, V *vectors) {
    std::vector<V> w(n * n);
    V size = splat(0);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) {
            w[i * n + j] = i < j ? a[j * n + i] : a[i * n + j];
            vectors[i * n + j] = splat(i == j);
            size += w[i * n + j] * w[i * n + j];
        }
    V small = root(size) * std::numeric_limits<REAL>::epsilon(), none = size - size;
    bool again = true;
    for (long sweep = 0; again && sweep < SWEEPS; sweep++) {
        again = false;
        for (long p = 0; p < n; p++)
            for (long q = p + 1; q < n; q++) {
                M needed = absolute(w[p * n + q]) > small;
                if (!any(needed)) continue;
                V c, s;
                angle(needed, w[q * n + q] - w[p * n + p], w[p * n + q], &c, &s);
                for (long k = 0; k < n; k++) rotate(c, s, w[k * n + p], w[k * n + q]);
                for (long k = 0; k < n; k++) rotate(c, s, w[p * n + k], w[q * n + k]);
                for (long k = 0; k < n; k++) rotate(c, s, vectors[k * n + p], vectors[k * n + q]);
                again = true;
            }
    }
    for (long i = 0; i < n; i++) values[i] = w[i * n + i] + none;
    for (long k = 0; k < n * n; k++) vectors[k] += none;
    for (long i = 0; i < n; i++)
        for (long j = i + 1; j < n; j++) {
            M less = values[j] < values[i];
            swap(less, values[i], values[j]);
            for (long k = 0; k < n; k++) swap(less, vectors[k * n + i], vectors[k * n + j]);
        }
}

// A unit vector that is orthogonal to j columns of u: from the unit vector that is farthest from them
template <long m, long n> static void completed(const V *u, long j, V *x) {
    V chosen = splat(0), far = splat(-1);
    for (long i = 0; i < m; i++) {
        V distance = splat(1);
        for (long k = 0; k < j; k++) distance -= u[i * n + k] * u[i * n + k];
        M farther = distance > far;
        chosen = pick(farther, splat(i), chosen), far = pick(farther, distance, far);
    }
    for (long i = 0; i < m; i++) x[i] = pick(chosen == splat(i), splat(1), splat(0));
    for (long twice = 0; twice < 2; twice++)
        for (long k = 0; k < j; k++) {
            V product = splat(0);
            for (long i = 0; i < m; i++) product += x[i] * u[i * n + k];
            for (long i = 0; i < m; i++) x[i] -= product * u[i * n + k];
        }
    V square = splat(0);
    for (long i = 0; i < m; i++) square += x[i] * x[i];
    for (long i = 0; i < m; i++) x[i] /= root(square);
}

// U, singular values in descending order, and V with A = U S V^T, of m >= n rows: A V has the columns of U S
template <long m, long n> static void singular_values(const V *a, V *u, V *values, V *v) {
    V size = splat(0);
    for (long k = 0; k < m * n; k++) u[k] = a[k], size += a[k] * a[k];
    for (long k = 0; k < n * n; k++) v[k] = splat(k % (n + 1) == 0) + (size - size);
    bool again = true;
    for (long sweep = 0; again && sweep < SWEEPS; sweep++) {
        again = false;
        for (long p = 0; p < n; p++)
            for (long q = p + 1; q < n; q++) {
                V first = splat(0), second = splat(0), product = splat(0);
                for (long i = 0; i < m; i++) {
                    V x = u[i * n + p], y = u[i * n + q];
                    first += x * x, second += y * y, product += x * y;
                }
                V small = root(first) * root(second) * (m * std::numeric_limits<REAL>::epsilon());
                M needed = absolute(product) > small;
                if (!any(needed)) continue;
                V c, s;
                angle(needed, second - first, product, &c, &s);
                for (long i = 0; i < m; i++) rotate(c, s, u[i * n + p], u[i * n + q]);
                for (long i = 0; i < n; i++) rotate(c, s, v[i * n + p], v[i * n + q]);
                again = true;
            }
    }
    for (long j = 0; j < n; j++) {
        V square = splat(0);
        for (long i = 0; i < m; i++) square += u[i * n + j] * u[i * n + j];
        values[j] = root(square) + (size - size);
    }
    for (long p = 0; p < n; p++)
        for (long q = p + 1; q < n; q++) {
            M larger = values[q] > values[p];
            swap(larger, values[p], values[q]);
            for (long i = 0; i < m; i++) swap(larger, u[i * n + p], u[i * n + q]);
            for (long i = 0; i < n; i++) swap(larger, v[i * n + p], v[i * n + q]);
        }
    std::vector<V> other(m);
    for (long j = 0; j < n; j++) {
        M none = values[j] == 0;
        completed<m, n>(u, j, other.data());
        for (long i = 0; i < m; i++) u[i * n + j] = pick(none, other[i], u[i * n + j] / values[j]);
    }
}
