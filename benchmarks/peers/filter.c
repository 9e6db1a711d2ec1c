// A bootstrap filter by hand: stochastic volatility (model 1) or a linear Gaussian model (model 0),
// systematic resampling where the effective size is below half, noise by Box and Muller in lanes of
// xoshiro256+.  Built with -Ofast, once for doubles and once for floats (REAL).
#include <stdint.h>
#include <stdlib.h>
#include <tgmath.h>

#define LANES 16

static uint64_t state[4][LANES];

static void seeded(uint64_t seed) {
    for (int k = 0; k < 4 * LANES; k++) {
        uint64_t x = seed += 0x9e3779b97f4a7c15;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9, x = (x ^ x >> 27) * 0x94d049bb133111eb;
        state[k / LANES][k % LANES] = x ^ x >> 31;
    }
}

static void uniforms(REAL *to) {
    for (int l = 0; l < LANES; l++) {
        uint64_t sum = state[0][l] + state[3][l], kept = state[1][l] << 17;
        state[2][l] ^= state[0][l], state[3][l] ^= state[1][l];
        state[1][l] ^= state[2][l], state[0][l] ^= state[3][l];
        state[2][l] ^= kept, state[3][l] = state[3][l] << 45 | state[3][l] >> 19;
        to[l] = sizeof(REAL) == 8 ? (REAL) ((int64_t) (sum >> 12) + 0.5) * (REAL) 0x1p-52
                                  : ((REAL) (int32_t) (sum >> 41) + (REAL) 0.5) * (REAL) 0x1p-23;
    }
}

static void normals(REAL *to, long count) {
    for (long i = 0; i < count; i += 2 * LANES) {
        REAL u[LANES], v[LANES];
        uniforms(u), uniforms(v);
        for (int l = 0; l < LANES; l++) {
            REAL radius = sqrt(-2 * log(u[l])), angle = (REAL) 6.283185307179586 * v[l];
            to[i + l] = radius * cos(angle), to[i + LANES + l] = radius * sin(angle);
        }
    }
}

// The log evidence, by n particles; a, b, c are mu, phi, sigma of the volatility, or phi and the
// standard deviations of state and data
double filtered(int model, const double *y, long steps, long n, uint64_t seed, double a_, double b_, double c_) {
    REAL a = a_, b = b_, c = c_, constant = (REAL) 0.9189385332046727 + (model ? 0 : log(c));
    long room = (n + 2 * LANES) & ~(2 * LANES - 1L);
    REAL *x = malloc(room * sizeof(REAL)), *y_, *next = malloc(room * sizeof(REAL));
    REAL *weight = malloc(room * sizeof(REAL)), *log_weight = calloc(room, sizeof(REAL)), *z = malloc(room * sizeof(REAL));
    double total = 0, before = 0;
    seeded(seed);
    for (long t = 0; t < steps; t++) {
        REAL datum = y[t], most = -INFINITY, sum = 0, squares = 0;
        normals(z, room);
        if (t == 0) {
            REAL scale = model ? c / sqrt(1 - b * b) : b / sqrt(1 - a * a), mean = model ? a : 0;
            for (long i = 0; i < n; i++) x[i] = mean + scale * z[i];
        } else if (model) {
            for (long i = 0; i < n; i++) x[i] = a + b * (x[i] - a) + c * z[i];
        } else {
            for (long i = 0; i < n; i++) x[i] = a * x[i] + b * z[i];
        }
        if (model)
            for (long i = 0; i < n; i++)
                log_weight[i] -= (REAL) 0.5 * (datum * datum * exp(-x[i]) + x[i]) + constant;
        else
            for (long i = 0; i < n; i++) {
                REAL far = (datum - x[i]) / c;
                log_weight[i] -= (REAL) 0.5 * far * far + constant;
            }
        for (long i = 0; i < n; i++) most = log_weight[i] > most ? log_weight[i] : most;
        for (long i = 0; i < n; i++) {
            weight[i] = exp(log_weight[i] - most);
            sum += weight[i], squares += weight[i] * weight[i];
        }
        double now = most + log((double) sum / n);
        total += now - before, before = now;
        if ((double) sum * sum < 0.5 * n * squares && t + 1 < steps) {
            REAL first[LANES];
            uniforms(first);
            double ends = 0, scale = n / (double) sum;
            for (long i = 0, j = 0; i < n; i++) {
                ends += weight[i] * scale;
                for (; j < n && (j + (double) first[0] <= ends || i == n - 1); j++) next[j] = x[i];
            }
            y_ = x, x = next, next = y_;
            for (long i = 0; i < n; i++) log_weight[i] = 0;
            before = 0;
        }
    }
    free(x), free(next), free(weight), free(log_weight), free(z);
    return total;
}
