// Scrambled Sobol' points, and orders in which neighbours are alike: see ``ppl/distributions/nets.py``
// and ``curves.py``, which define them.
#include <algorithm>
#include <cfloat>
#include <numeric>

// An order of n keys, increasing, equal ones as they come
template <class T> static void ordered(const T *keys, long n, std::vector<int32_t> &order) {
    std::vector<std::pair<T, int32_t>> pairs(n);
    for (long i = 0; i < n; i++) pairs[i] = {keys[i], (int32_t) i};
    std::sort(pairs.begin(), pairs.end());
    for (long i = 0; i < n; i++) order[i] = pairs[i].second;
}

struct Digits {
    long all;      // binary digits of a coordinate
    long columns;  // of them, those that scrambles mix
    long numbers;  // direction numbers, so that 2^numbers are n or more
    const int64_t *directions;  // [coordinates][numbers]: bit c is the digit c
};

// n points [d][n], in increasing order of the first coordinate.  For each coordinate there are coins
// [1 + columns] below 2^digits: its shift, and one for each column of its scramble.
static void net(long n, long d, const Digits &digits, const int64_t *coins, double *to) {
    const int64_t *directions = digits.directions, one = 1;
    const long columns = digits.columns;
    std::vector<int64_t> x(n), scramble(columns);
    std::vector<int32_t> order(n);
    for (long k = 0; k < d; k++, coins += 1 + columns, directions += digits.numbers) {
        for (long c = 0; c < columns; c++) {
            int64_t height = one << (digits.all - 1 - c);
            scramble[c] = height + coins[1 + c] % height;
        }
        x[0] = coins[0];
        for (long j = 0, size = 1; j < digits.numbers; j++, size *= 2) {
            int64_t moved = 0;
            for (long c = 0; c < columns; c++)
                if (directions[j] >> c & 1) moved ^= scramble[c];
            for (long i = 0; i < std::min(size, n - size); i++) x[size + i] = x[i] ^ moved;
        }
        if (k == 0 && n == one << columns)  // one in each of n cells
            for (long i = 0; i < n; i++) order[x[i] >> (digits.all - columns)] = i;
        else if (k == 0) ordered(x.data(), n, order);
        for (long i = 0; i < n; i++) to[k * n + i] = (x[order[i]] + 0.5) / (double) (one << digits.all);
    }
}

// The place of a cell [s] along a Hilbert curve, on a grid of 2^digits a side (Skilling 2004)
static int64_t along_curve(int64_t *x, long s, int digits) {
    for (int k = digits - 1; k > 0; k--) {
        int64_t bit = (int64_t) 1 << k, below = bit - 1;
        for (long i = 0; i < s; i++) {
            if (x[i] & bit) x[0] ^= below;
            else {
                int64_t swapped = (x[0] ^ x[i]) & below;
                x[0] ^= swapped, x[i] ^= swapped;
            }
        }
    }
    for (long i = 1; i < s; i++) x[i] ^= x[i - 1];
    int64_t last = 0, place = 0;
    for (int k = digits - 1; k > 0; k--)
        if (x[s - 1] >> k & 1) last ^= ((int64_t) 1 << k) - 1;
    for (int k = digits - 1; k >= 0; k--)
        for (long i = 0; i < s; i++) place = place << 1 | ((x[i] ^ last) >> k & 1);
    return place;
}

// The order of n particles by what they carry, numbers [s][n]
template <class T> static void neighbours(const T *state, long s, long n, std::vector<int32_t> &order) {
    const long most = 31;
    if (s > most) s = most;
    std::vector<double> keys(n);
    if (s == 0) {
        std::iota(order.begin(), order.begin() + n, 0);
    } else if (s == 1) {
        for (long i = 0; i < n; i++) keys[i] = std::isnan(state[i]) ? INFINITY : state[i];
        ordered(keys.data(), n, order);
    } else {
        const int digits = std::min(62 / s, 16L);
        const double side = (double) (1 << digits);
        std::vector<int64_t> cells(n * s), places(n);
        for (long k = 0; k < s; k++) {
            double sum = 0, squares = 0;
            for (long i = 0; i < n; i++) {
                double x = state[k * n + i];
                keys[i] = std::isnan(x) ? 0 : std::isinf(x) ? std::copysign(DBL_MAX, x) : x;
                sum += keys[i];
            }
            double mean = sum / n;
            for (long i = 0; i < n; i++) squares += (keys[i] - mean) * (keys[i] - mean);
            double spread = std::sqrt(squares / n);
            for (long i = 0; i < n; i++) {
                double z = (keys[i] - mean) / (spread > 0 ? spread : 1.0);
                double cell = 0.5 * std::erfc(-z * M_SQRT1_2) * side;
                cells[i * s + k] = cell >= 0 ? std::min((int64_t) cell, ((int64_t) 1 << digits) - 1) : 0;
            }
        }
        for (long i = 0; i < n; i++) places[i] = along_curve(&cells[i * s], s, digits);
        ordered(places.data(), n, order);
    }
}

extern "C" void points(long n, long d, const Digits *digits, const int64_t *coins, double *to) {
    net(n, d, *digits, coins, to);
}
extern "C" void order_of(const double *state, long s, long n, int32_t *to) {
    std::vector<int32_t> order(n);
    neighbours(state, s, n, order);
    std::copy(order.begin(), order.end(), to);
}
