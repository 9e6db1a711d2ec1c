// Numbers of all lanes as SIMD vectors: REAL is the machine's real, LANES how many a vector V has.
// NaN and infinities are kept: this is not to be compiled with -ffast-math.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#define INLINE static inline __attribute__((always_inline))
#define OF(f) [](auto... a) { return f(a...); }

template <class A, class C> INLINE A pick(C mask, A yes, A no) { return mask ? yes : no; }

template <class K> INLINE bool any(K where) {
    for (unsigned long l = 0; l < sizeof where / sizeof where[0]; l++)
        if (where[l]) return true;
    return false;
}

static const double HIGH = 0x1.62e42fefa0000p-1, LOW = 0x1.cf79abc9e3b3ap-40;  // their sum is ln 2
// (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2 to 1.3e-17, and (2 atanh(s) / s - 2) / s^2 as a function of
// s^2 for |s| <= 3 - 2 sqrt 2 to 6e-20: fits at the points of Chebyshev
static constexpr double EXP[] = {0x1.0000000000001p-1, 0x1.5555555555556p-3, 0x1.5555555553d63p-5,
    0x1.11111111109b3p-7, 0x1.6c16c1788bd90p-10, 0x1.a01a01a7c41d5p-13, 0x1.a019b90d2ae7ap-16,
    0x1.71de0dae63bb3p-19, 0x1.289185613a3d6p-22, 0x1.af38a9b0ec855p-26};
static constexpr double LOG[] = {0x1.5555555555555p-1, 0x1.9999999999a38p-2, 0x1.2492492476c87p-2,
    0x1.c71c720160b47p-3, 0x1.745cf901605f7p-3, 0x1.3b1c360763b8ap-3, 0x1.0fbe83c2cbcf3p-3,
    0x1.0c04595972ab8p-3};
static const double WHOLE = 0x1.8p52;  // adding it rounds to a whole number, kept in the low bits
// The same for float: the series to 1.5e-9 and 1.2e-9
static const float HIGH_F = 0x1.62ep-1f, LOW_F = 0x1.0bfbe8p-15f, WHOLE_F = 0x1.8p23f;
static constexpr float EXP_F[] = {0x1p-1f, 0x1.555556p-3f, 0x1.5554e4p-5f, 0x1.1110e0p-7f,
    0x1.6d4920p-10f, 0x1.a12a42p-13f};
static constexpr float LOG_F[] = {0x1.555556p-1f, 0x1.9999ecp-2f, 0x1.245c44p-2f, 0x1.ddced8p-3f};

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

static double log_normal_below(double x) {
    if (!(x < 0)) return std::log1p(-0.5 * std::erfc(x * M_SQRT1_2));
    double log_below, mills;
    lower_tail(x, &log_below, &mills);
    return std::isinf(x) ? x : log_below;
}

// exp(x^2) erfc(x)
static double scaled_erfc(double x) {
    if (!(x > 0)) return std::exp(x * x) * std::erfc(x);
    double log_below, mills;
    lower_tail(-M_SQRT2 * x, &log_below, &mills);
    return std::sqrt(2 / M_PI) * mills;
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
