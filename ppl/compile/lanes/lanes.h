// Numbers of all lanes as SIMD vectors: REAL is the machine's real, LANES how many lanes a vector has.
// NaN and infinities are kept: this is not to be compiled with -ffast-math.
#include <cmath>
#include <cstdint>
#include <cstring>

typedef REAL V __attribute__((vector_size(LANES * sizeof(REAL))));
typedef decltype(V{} < V{}) M;  // all bits set where true
typedef double D __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t I __attribute__((vector_size(LANES * sizeof(int64_t))));

#define INLINE static inline __attribute__((always_inline))

INLINE V splat(REAL x) { return V{} + x; }
INLINE M truth(bool x) { return M{} - (x ? 1 : 0); }
template <class A, class C> INLINE A pick(C mask, A yes, A no) { return mask ? yes : no; }
INLINE V largest(V a, V b) { return pick((a > b) | (a != a), a, b); }
INLINE V least(V a, V b) { return pick((a < b) | (a != a), a, b); }
INLINE V absolute(V x) { return pick(x < 0, -x, x + splat(0)); }
INLINE V sign_of(V x) { return pick(x > 0, splat(1), pick(x < 0, splat(-1), splat(0))); }

#define OF(f) [](auto... a) { return f(a...); }
template <class F> INLINE V each(F f, V x) {
    V y;
    for (int l = 0; l < LANES; l++) y[l] = f(x[l]);
    return y;
}
template <class F> INLINE V each(F f, V x, V z) {
    V y;
    for (int l = 0; l < LANES; l++) y[l] = f(x[l], z[l]);
    return y;
}
INLINE V root(V x) { return each([](REAL a) { return std::sqrt(a); }, x); }
INLINE V remainder_of(V x, V y) {
    return each([](REAL a, REAL b) { return a - std::floor(a / b) * b; }, x, y);
}

// ------------------------------------------------------------------ exponentials and logarithms
// In double, whatever REAL is.  With ln 2 = HIGH + LOW, HIGH short enough that k HIGH is exact.

static const double HIGH = 0x1.62e42fefa0000p-1, LOW = 0x1.cf79abc9e3b3ap-40;
static const double WHOLE = 0x1.8p52;  // adding it rounds to a whole number, kept in the low bits

INLINE I bits(D x) { I i; std::memcpy(&i, &x, sizeof i); return i; }
INLINE D of_bits(I i) { D x; std::memcpy(&x, &i, sizeof x); return x; }
INLINE D power_of_two(D k) { return of_bits((bits(k + (WHOLE + 1023)) << 52)); }

// c0 + c1 x + ... of twelve coefficients, in a tree rather than a chain
INLINE D series(const double (&c)[12], D x) {
    D x2 = x * x, x4 = x2 * x2;
    D a = (c[0] + c[1] * x) + (c[2] + c[3] * x) * x2, b = (c[4] + c[5] * x) + (c[6] + c[7] * x) * x2;
    D d = (c[8] + c[9] * x) + (c[10] + c[11] * x) * x2;
    return a + (b + d * x4) * x4;
}

// x = k ln 2 + r with |r| <= ln 2 / 2, and exp(r) - 1 - r by its series
static D reduced(D x, D *k, D *tail) {
    D whole = (x * 0x1.71547652b82fep0 + WHOLE) - WHOLE;
    D r = (x - whole * HIGH) - whole * LOW;
    static constexpr double inverse[12] = {1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720,
        1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600,
        1.0 / 6227020800};
    *k = whole;
    *tail = series(inverse, r) * (r * r);
    return r;
}

static D wide_exp(D x) {
    D k, tail, inside = pick(x > 710, D{} + 710, pick(x < -746, D{} - 746, x));
    D r = reduced(inside, &k, &tail);
    D half = (k * 0.5 + WHOLE) - WHOLE;
    return ((1.0 + (r + tail)) * power_of_two(half)) * power_of_two(k - half);
}

static D wide_expm1(D x) {
    D k, tail, inside = pick(x > 700, D{} + 700, pick(x < -40, D{} - 40, x));
    D r = reduced(inside, &k, &tail);
    D scale = power_of_two(k);
    D y = (scale - 1.0) + scale * (r + tail);
    return pick(k == 0, r + tail, pick(x > 700, wide_exp(x), y));
}

// log(x + lost) for a little that x lost: x = 2^k (1 + f) with 1 + f within [sqrt(1/2), sqrt 2], and
// 2 atanh(s) = log(1 + f) for s = f / (2 + f)
template <bool lossy> static D logarithm_of(D x, D lost) {
    auto small = x < 0x1p-1022;
    D y = pick(small, x * 0x1p54, x);
    I raw = bits(y) - 0x3fe6a09e667f3bcdLL;
    I above = (raw >> 52) & 0xfffLL;  // k modulo 4096
    D k = of_bits((above ^ 0x800LL) | 0x4330000000000000LL) - (0x1p52 + 2048);
    I mantissa = (raw & 0xfffffffffffffLL) + 0x3fe6a09e667f3bcdLL;
    D f = of_bits(mantissa) - 1.0;
    if (lossy) f += lost * power_of_two(-k);
    k = pick(small, k - 54, k);
    D s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    static constexpr double odd[12] = {2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13,
        2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23, 2.0 / 25};
    D value = k * HIGH - ((half - (s * (half + series(odd, z) * z) + k * LOW)) - f);
    D infinite = D{} + INFINITY, none = D{} + NAN;
    return pick(x > 0, pick(x == infinite, x, value), pick(x == 0, -infinite, none));
}

static D wide_log(D x) { return logarithm_of<false>(x, D{}); }

static D wide_log1p(D x) {
    D u = 1.0 + x, lost = x - (u - 1.0);
    return pick(x == 0, x, logarithm_of<true>(u, lost));
}

static D wide_tanh(D x) {
    D a = pick(x < 0, -x, x);
    D t = wide_expm1(2.0 * pick(a > 20, D{} + 20, a));
    D y = t / (t + 2.0);
    return pick(x < 0, -y, pick(x == 0, x, y));
}

template <D f(D)> INLINE V widened(V x) {
    return __builtin_convertvector(f(__builtin_convertvector(x, D)), V);
}
INLINE V exponential(V x) { return widened<wide_exp>(x); }
INLINE V exponential_less_one(V x) { return widened<wide_expm1>(x); }
INLINE V logarithm(V x) { return widened<wide_log>(x); }
INLINE V logarithm_of_more(V x) { return widened<wide_log1p>(x); }
INLINE V hyperbolic_tangent(V x) { return widened<wide_tanh>(x); }

// -------------------------------------------------------------------------------- gamma functions

static double log_gamma(double x) {
    int sign;
    return lgamma_r(x, &sign);
}

// By the asymptotic series from 10 on, which the recurrence reaches, and by reflection below 0
static double digamma(double x) {
    if (x == 0) return std::copysign(INFINITY, -x);
    if (x < 0) {
        if (x == std::floor(x)) return NAN;
        double whole = std::nearbyint(x);
        return digamma(1 - x) - M_PI / std::tan(M_PI * (x - whole));
    }
    double below = 0;
    for (; x < 10; x += 1) below += 1 / x;
    double z = 1 / (x * x);
    const double bernoulli[] = {1.0 / 12, -691.0 / 32760, 1.0 / 132, -1.0 / 240, 1.0 / 252,
        -1.0 / 120, 1.0 / 12};
    double s = 0;
    for (double c : bernoulli) s = s * z + c;
    return std::log(x) - 0.5 / x - s * z - below;
}

// log Phi(x) and Phi(x) / phi(x) of the standard normal for x < 0; far out by the asymptotic series
static void lower_tail(double x, double *log_below, double *mills) {
    double log_density = -0.5 * x * x - 0.5 * std::log(2 * M_PI);
    if (x > -25) {
        double below = 0.5 * std::erfc(-x * M_SQRT1_2);
        *log_below = std::log(below), *mills = below / std::exp(log_density);
        return;
    }
    double z = 1 / (x * x), s = 1;
    for (int k = 15; k > 0; k -= 2) s = 1 - k * z * s;
    *mills = -s / x, *log_below = log_density + std::log(*mills);
}

// The quantile of the standard normal by Newton's method: in the middle on the distribution function
// less 1/2, and in a tail on its logarithm, which is concave, so that all steps come from one side.
static double normal_quantile(double p) {
    if (!(p > 0 && p < 1)) return p == 0 ? -INFINITY : p == 1 ? INFINITY : NAN;
    if (p > 0.75) return -normal_quantile(1 - p);
    bool tail = p < 0.25;
    double x = tail ? -std::sqrt(-2 * std::log(p)) : (p - 0.5) * std::sqrt(2 * M_PI);
    for (int k = 0; k < 20; k++) {
        double step, log_below, mills;
        if (tail) {
            lower_tail(x, &log_below, &mills);
            step = (std::log(p) - log_below) * mills;
        } else {
            double density = std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
            step = ((p - 0.5) - 0.5 * std::erf(x * M_SQRT1_2)) / density;
        }
        x += step;
        if (std::fabs(step) <= 1e-15 * std::fabs(x)) break;
    }
    return x;
}

// ---------------------------------------------------------------------------------------- matrices

// The factor, and the first pivot that is not positive, or 0 where there is none
template <long n> static V cholesky(const V *a, V *l) {
    V failed = splat(0);
    for (long j = 0; j < n; j++) {
        for (long i = 0; i < j; i++) l[i * n + j] = splat(0);
        V pivot = a[j * n + j];
        for (long p = 0; p < j; p++) pivot -= l[j * n + p] * l[j * n + p];
        failed = pick((failed == 0) & ~(pivot > 0), splat(j + 1), failed);
        V top = root(pivot), inverse = splat(1) / top;
        l[j * n + j] = top;
        for (long i = j + 1; i < n; i++) {
            V s = a[i * n + j];
            for (long p = 0; p < j; p++) s -= l[i * n + p] * l[j * n + p];
            l[i * n + j] = s * inverse;
        }
    }
    return failed;
}

template <long n, long m, bool unit> static void solve_lower(const V *a, const V *b, V *x) {
    for (long i = 0; i < n; i++) {
        V inverse = unit ? splat(1) : splat(1) / a[i * n + i];
        for (long j = 0; j < m; j++) {
            V s = b[i * m + j];
            for (long p = 0; p < i; p++) s -= a[i * n + p] * x[p * m + j];
            x[i * m + j] = s * inverse;
        }
    }
}

template <long n, long m, bool unit> static void solve_upper(const V *a, const V *b, V *x) {
    for (long i = n - 1; i >= 0; i--) {
        V inverse = unit ? splat(1) : splat(1) / a[i * n + i];
        for (long j = 0; j < m; j++) {
            V s = b[i * m + j];
            for (long p = i + 1; p < n; p++) s -= a[i * n + p] * x[p * m + j];
            x[i * m + j] = s * inverse;
        }
    }
}

// By Gauss and Jordan, each lane choosing its own pivots
template <long n> static V inverse(const V *a, V *x) {
    V w[n * n], failed = splat(0);
    for (long k = 0; k < n * n; k++) w[k] = a[k], x[k] = splat(k % (n + 1) == 0);
    for (long j = 0; j < n; j++) {
        for (long i = j + 1; i < n; i++) {
            M larger = absolute(w[i * n + j]) > absolute(w[j * n + j]);
            for (long c = 0; c < n; c++) {
                V up = w[i * n + c], down = w[j * n + c], left = x[i * n + c], right = x[j * n + c];
                w[j * n + c] = pick(larger, up, down), w[i * n + c] = pick(larger, down, up);
                x[j * n + c] = pick(larger, left, right), x[i * n + c] = pick(larger, right, left);
            }
        }
        V pivot = w[j * n + j];
        failed = pick((failed == 0) & ~(absolute(pivot) > 0), splat(j + 1), failed);
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
    return failed;
}

// The inverse of L L^T
template <long n> static V inverse_of_product(const V *l, V *x) {
    V identity[n * n], y[n * n], transposed[n * n];
    for (long k = 0; k < n * n; k++) identity[k] = splat(k % (n + 1) == 0);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) transposed[j * n + i] = l[i * n + j];
    solve_lower<n, n, false>(l, identity, y);
    solve_upper<n, n, false>(transposed, y, x);
    return splat(0);
}
