// Functions of a vector V of LANES reals, and masks M.  They are compiled a second time, with other
// names for the types, for vectors W of WIDE reals: see header.py.

typedef REAL V __attribute__((vector_size(LANES * sizeof(REAL))));
typedef decltype(V{} < V{}) M;  // all bits set where true
typedef double D __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t I __attribute__((vector_size(LANES * sizeof(int64_t))));
typedef float F __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t J __attribute__((vector_size(LANES * sizeof(int32_t))));

INLINE V splat(REAL x) { return x - V{}; }  // which keeps the sign of -0
INLINE M truth(bool x) { return M{} - (x ? 1 : 0); }
INLINE V largest(V a, V b) { return pick((a > b) | (a != a), a, b); }
INLINE V least(V a, V b) { return pick((a < b) | (a != a), a, b); }
INLINE V absolute(V x) { return pick(x < 0, -x, x + splat(0)); }
INLINE V sign_of(V x) { return pick(x > 0, splat(1), pick(x < 0, splat(-1), splat(0))); }

INLINE void stored(REAL *to, V x, long some) {
    if (some == LANES) std::memcpy(to, &x, sizeof x);
    else std::memcpy(to, &x, some * sizeof(REAL));
}

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

INLINE I bits(D x) { I i; std::memcpy(&i, &x, sizeof i); return i; }
INLINE D of_bits(I i) { D x; std::memcpy(&x, &i, sizeof x); return x; }
INLINE D power_of_two(D k) { return of_bits((bits(k + (WHOLE + 1023)) << 52)); }

// c0 + c1 x + ... + c7 x^7, in a tree rather than a chain
INLINE D series(const double *c, D x) {
    D x2 = x * x;
    D a = (c[0] + c[1] * x) + (c[2] + c[3] * x) * x2, b = (c[4] + c[5] * x) + (c[6] + c[7] * x) * x2;
    return a + b * (x2 * x2);
}

// x = k ln 2 + r with |r| <= ln 2 / 2, and exp(r) - 1 - r
static D reduced(D x, D *k, D *tail) {
    D whole = (x * 0x1.71547652b82fep0 + WHOLE) - WHOLE;
    D r = (x - whole * HIGH) - whole * LOW;
    D r2 = r * r, r4 = r2 * r2;
    *k = whole;
    *tail = (series(EXP, r) + (EXP[8] + EXP[9] * r) * (r4 * r4)) * r2;
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
    D value = k * HIGH - ((half - (s * (half + series(LOG, z) * z) + k * LOW)) - f);
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

// The same in float: exp, log and log1p by its own operations, the others by those of double

INLINE J bits(F x) { J i; std::memcpy(&i, &x, sizeof i); return i; }
INLINE F of_bits(J i) { F x; std::memcpy(&x, &i, sizeof x); return x; }
INLINE F power_of_two(F k) { return of_bits(bits(k + (WHOLE_F + 127)) << 23); }

static F wide_exp(F x) {
    F inside = pick(x > 89, F{} + 89, pick(x < -104, F{} - 104, x));
    F k = (inside * 0x1.715476p0f + WHOLE_F) - WHOLE_F, half = (k * 0.5f + WHOLE_F) - WHOLE_F;
    F r = (inside - k * HIGH_F) - k * LOW_F, r2 = r * r;
    F tail = (EXP_F[0] + EXP_F[1] * r) + ((EXP_F[2] + EXP_F[3] * r) + (EXP_F[4] + EXP_F[5] * r) * r2) * r2;
    return ((1.0f + (r + tail * r2)) * power_of_two(half)) * power_of_two(k - half);
}

template <bool lossy> static F logarithm_of(F x, F lost) {
    auto small = x < 0x1p-126f;
    J raw = bits(pick(small, x * 0x1p25f, x)) - 0x3f3504f3;
    F k = __builtin_convertvector(raw >> 23, F), f = of_bits((raw & 0x7fffff) + 0x3f3504f3) - 1.0f;
    if (lossy) f += lost * power_of_two(-k);
    k = pick(small, k - 25, k);
    F s = f / (2.0f + f), z = s * s, half = 0.5f * f * f;
    F ratio = (LOG_F[0] + LOG_F[1] * z) + (LOG_F[2] + LOG_F[3] * z) * (z * z);
    F value = k * HIGH_F - ((half - (s * (half + ratio * z) + k * LOW_F)) - f);
    F infinite = F{} + INFINITY, none = F{} + NAN;
    return pick(x > 0, pick(x == infinite, x, value), pick(x == 0, -infinite, none));
}

static F wide_log(F x) { return logarithm_of<false>(x, F{}); }

static F wide_log1p(F x) {
    F u = 1.0f + x, lost = x - (u - 1.0f);
    return pick(x == 0, x, logarithm_of<true>(u, lost));
}

static F wide_expm1(F x) { return __builtin_convertvector(wide_expm1(__builtin_convertvector(x, D)), F); }
static F wide_tanh(F x) { return __builtin_convertvector(wide_tanh(__builtin_convertvector(x, D)), F); }

// The quantile of the standard normal; beyond the fit, number by number
INLINE D quantile(D u) {
    D w = -wide_log(4.0 * (u * (1.0 - u))), t = w * (1.0 / 3) - 1.0;
    D t2 = t * t, t4 = t2 * t2, t8 = t4 * t4;
    D z = (u - 0.5) * (series(QUANTILE, t) + t8 * (series(QUANTILE + 8, t) + t8 * series(QUANTILE + 16, t)));
    if (any(w > 6))
        for (int l = 0; l < LANES; l++)
            if (w[l] > 6) z[l] = normal_quantile(u[l]);
    return z;
}

INLINE F cubic(const float *c, F x) { return (c[0] + c[1] * x) + (c[2] + c[3] * x) * (x * x); }

INLINE F quantile(F u) {
    F w = -wide_log(4.0f * (u * (1.0f - u))), t = w * (1.0f / 3) - 1.0f;
    F t2 = t * t, t4 = t2 * t2;
    F z = (u - 0.5f) * (cubic(QUANTILE_F, t) + t4 * (cubic(QUANTILE_F + 4, t) + t4 * cubic(QUANTILE_F + 8, t)));
    if (any(w > 6))
        for (int l = 0; l < LANES; l++)
            if (w[l] > 6) z[l] = normal_quantile(u[l]);
    return z;
}

INLINE V exponential(V x) { return wide_exp(x); }
INLINE V exponential_less_one(V x) { return wide_expm1(x); }
INLINE V logarithm(V x) { return wide_log(x); }
INLINE V logarithm_of_more(V x) { return wide_log1p(x); }
INLINE V hyperbolic_tangent(V x) { return wide_tanh(x); }

// x[0] 2^x[1] times a factor; a zero, infinite or undefined product stays what it is
INLINE void multiply(D *x, D factor) {
    auto small = factor < 0x1p-900;
    D p = x[0] * pick(small, factor * 0x1p150, factor);
    auto usual = (p > 0) & (p < INFINITY);
    D k = of_bits((bits(p) >> 52) | 0x4330000000000000LL) - (0x1p52 + 1022);
    D lead = of_bits((bits(p) & 0xfffffffffffffLL) | 0x3fe0000000000000LL);
    x[0] = pick(usual, lead, pick(p < 0, D{} + NAN, p));
    x[1] = x[1] + pick(usual, k, D{}) - pick(small, D{} + 150, D{});
}
INLINE D logarithm_of_product(D x, D exponent) { return wide_log(x) + exponent * 0x1.62e42fefa39efp-1; }
