/* The eight log densities of densities.py and their gradients, by hand.

   They are compiled apart from the sampler, with -ffast-math, which makes vectors of sums. */
#include <math.h>
#include <string.h>

#include "nuts.h"

static double square(double x) { return x * x; }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* x: the standard errors */
double eight(const double *u, double *g, const Data *data) {
    double mu = u[0], tau = exp(u[1]), s = square(tau / 5), lp = 0, to_mu = 0, to_tau = 0;
    for (int i = 0; i < 8; i++) {
        double z = u[2 + i], w = 1 / data->x[i], r = (data->y[i] - mu - tau * z) * w;
        lp -= (r * r + z * z) / 2;
        g[2 + i] = r * w * tau - z;
        to_mu += r * w, to_tau += r * w * z;
    }
    g[0] = to_mu - mu / 25;
    g[1] = to_tau * tau - 2 * s / (1 + s) + 1;
    return lp - mu * mu / 50 - log(1 + s) + u[1];
}

/* x: uranium, floor; place: the county */
double radon(const double *u, double *g, const Data *data) {
    long n = data->n, groups = data->groups;
    const double *uranium = data->x, *floor = data->x + n, *z = u + 5;
    double mu = u[0], b1 = u[1], b2 = u[2], spread = exp(u[3]), sigma = exp(u[4]);
    double w = 1 / square(sigma), lp = 0, errors = 0, g1 = 0, g2 = 0, to_mu = 0, to_spread = 0;
    double alpha[groups], error[n], *sums = g + 5;
    for (long j = 0; j < groups; j++) alpha[j] = mu + spread * z[j], sums[j] = 0;
    for (long i = 0; i < n; i++)
        error[i] = data->y[i] - alpha[data->place[i]] - uranium[i] * b1 - floor[i] * b2;
    for (long i = 0; i < n; i++)
        errors += square(error[i]), g1 += error[i] * uranium[i], g2 += error[i] * floor[i];
    for (long i = 0; i < n; i++) sums[data->place[i]] += error[i];
    for (long j = 0; j < groups; j++) {
        double q = sums[j] * w;
        lp -= square(z[j]) / 2;
        to_mu += q, to_spread += q * z[j];
        sums[j] = q * spread - z[j];
    }
    g[0] = to_mu - mu / 100, g[1] = g1 * w - b1 / 100, g[2] = g2 * w - b2 / 100;
    g[3] = to_spread * spread - square(spread) + 1, g[4] = errors * w - n - square(sigma) + 1;
    lp -= (mu * mu + b1 * b1 + b2 * b2) / 200 + (square(spread) + square(sigma)) / 2;
    return lp - errors * w / 2 - n * u[4] + u[3] + u[4];
}

/* x: the four columns */
double wells(const double *u, double *g, const Data *data) {
    long n = data->n;
    const double *x1 = data->x, *x2 = x1 + n, *x3 = x2 + n, *x4 = x3 + n, *y = data->y;
    double lp = 0, g0 = 0, g1 = 0, g2 = 0, g3 = 0, g4 = 0;
    for (long i = 0; i < n; i++) {
        double logit = u[0] + u[1] * x1[i] + u[2] * x2[i] + u[3] * x3[i] + u[4] * x4[i];
        double t = exp(-fabs(logit)), p = (logit > 0 ? 1 : t) / (1 + t), r = y[i] - p;
        lp += y[i] * logit - (logit > 0 ? logit : 0) - log(1 + t);
        g0 += r, g1 += r * x1[i], g2 += r * x2[i], g3 += r * x3[i], g4 += r * x4[i];
    }
    g[0] = g0, g[1] = g1, g[2] = g2, g[3] = g3, g[4] = g4;
    return lp;
}

/* L becomes the Cholesky factor of the lower triangle C + 1e-10; inverse, one over its diagonal. */
#define N 11
static void factorise(double C[N][N], double L[N][N], double *inverse) {
    for (int j = 0; j < N; j++) {
        double pivot = C[j][j] + 1e-10;
        for (int k = 0; k < j; k++) pivot -= square(L[j][k]);
        L[j][j] = sqrt(pivot), inverse[j] = 1 / L[j][j];
        for (int i = j + 1; i < N; i++) {
            double rest = C[i][j];
            for (int k = 0; k < j; k++) rest -= L[i][k] * L[j][k];
            L[i][j] = rest * inverse[j];
        }
    }
}

/* From the gradient S by the factor to that by the matrix, in the lower triangle. */
static void reverse_factorise(double S[N][N], double L[N][N], const double *inverse) {
    for (int j = N - 1; j >= 0; j--) {
        for (int i = N - 1; i > j; i--) {
            double t = S[i][j] * inverse[j];
            S[j][j] -= t * L[i][j];
            for (int k = 0; k < j; k++) S[i][k] -= t * L[j][k], S[j][k] -= t * L[i][k];
            S[i][j] = t;
        }
        double t = S[j][j] * inverse[j] / 2;
        for (int k = 0; k < j; k++) S[j][k] -= 2 * t * L[j][k];
        S[j][j] = t;
    }
}

/* x: the places */
double gp(const double *u, double *g, const Data *data) {
    const double *x = data->x, *k = data->y, *z = u + 2;
    double rho = exp(u[0]), alpha2 = exp(2 * u[1]), w = 1 / square(rho), to_rho = 0, to_alpha = 0;
    double C[N][N], L[N][N], S[N][N], inverse[N], r[N], lp = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++) C[i][j] = alpha2 * exp(-square(x[i] - x[j]) * w / 2);
    factorise(C, L, inverse);
    for (int i = 0; i < N; i++) {
        double f = 0;
        for (int j = 0; j <= i; j++) f += L[i][j] * z[j];
        double rate = exp(f);
        lp += k[i] * f - rate - square(z[i]) / 2;
        r[i] = k[i] - rate;
    }
    for (int j = 0; j < N; j++) {
        g[2 + j] = -z[j];
        for (int i = j; i < N; i++) g[2 + j] += L[i][j] * r[i], S[i][j] = r[i] * z[j];
    }
    reverse_factorise(S, L, inverse);
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++)
            to_alpha += S[i][j] * C[i][j], to_rho += S[i][j] * C[i][j] * square(x[i] - x[j]);
    g[0] = 25 - 4 * rho + to_rho * w, g[1] = 1 - alpha2 / 4 + 2 * to_alpha;
    return lp + 25 * u[0] - 4 * rho - alpha2 / 8 + u[1];
}

/* x: the five columns of the past */
double ark(const double *u, double *g, const Data *data) {
    long n = data->n;
    const double *y = data->y, *x = data->x;
    double w = exp(-2 * u[6]), s = exp(2 * u[6]) / 6.25, errors = 0, sums[6] = {0};
    for (long i = 0; i < n; i++) {
        double r = y[i] - u[0] - u[1] * x[i] - u[2] * x[n + i] - u[3] * x[2 * n + i]
                   - u[4] * x[3 * n + i] - u[5] * x[4 * n + i];
        errors += r * r, sums[0] += r, sums[1] += r * x[i], sums[2] += r * x[n + i];
        sums[3] += r * x[2 * n + i], sums[4] += r * x[3 * n + i], sums[5] += r * x[4 * n + i];
    }
    double lp = -errors * w / 2 - n * u[6] - log(1 + s) + u[6];
    for (int k = 0; k < 6; k++) lp -= u[k] * u[k] / 200, g[k] = sums[k] * w - u[k] / 100;
    g[6] = errors * w - n - 2 * s / (1 + s) + 1;
    return lp;
}

/* number: the first standard deviation */
double garch(const double *u, double *g, const Data *data) {
    long n = data->n;
    const double *y = data->y;
    double mu = u[0], alpha0 = exp(u[1]), alpha1 = sigmoid(u[2] - log(2)), rest = sigmoid(u[3]);
    double beta1 = (1 - alpha1) * rest, lp = 0, bar = 0, to_mu = 0, g0 = 0, g1 = 0, gb = 0;
    double v[n], squares[n], w[n];
    for (long t = 0; t < n; t++) squares[t] = square(y[t] - mu);
    v[0] = square(data->number);
    for (long t = 1; t < n; t++) v[t] = alpha0 + alpha1 * squares[t - 1] + beta1 * v[t - 1];
    for (long t = 0; t < n; t++) w[t] = 1 / v[t], lp -= (squares[t] * w[t] + log(v[t])) / 2;
    for (long t = n - 1; t >= 0; t--) {
        bar = bar * beta1 + w[t] * (squares[t] * w[t] - 1) / 2;
        to_mu += (y[t] - mu) * w[t];
        if (t == 0) break;
        g0 += bar, g1 += bar * squares[t - 1], gb += bar * v[t - 1];
        to_mu -= 2 * alpha1 * bar * (y[t - 1] - mu);
    }
    g[0] = to_mu, g[1] = g0 * alpha0 + 1;
    g[2] = (g1 - gb * rest) * alpha1 * (1 - alpha1) + 1 - 3 * alpha1;
    g[3] = gb * (1 - alpha1) * rest * (1 - rest) + 1 - 2 * rest;
    return lp + u[1] + log(alpha1) + 2 * log(1 - alpha1) + log(rest) + log(1 - rest);
}

double mix(const double *u, double *g, const Data *data) {
    long n = data->n;
    double gap = exp(u[1]), m1 = u[0], m2 = m1 + gap, s1 = exp(u[2]), s2 = exp(u[3]);
    double w1 = 1 / s1, w2 = 1 / s2, theta = sigmoid(u[4]), odds = u[2] - u[3] - u[4];
    double sum = 0, p1 = 0, a1 = 0, a2 = 0, b1 = 0, b2 = 0;
    for (long i = 0; i < n; i++) {
        double a = (data->y[i] - m1) * w1, b = (data->y[i] - m2) * w2;
        double h = odds + (a * a - b * b) / 2, t = exp(-fabs(h)), p = (h > 0 ? t : 1) / (1 + t);
        sum += (h > 0 ? h : 0) + log(1 + t) - a * a / 2; /* p: of the first component */
        p1 += p, a1 += p * a, a2 += p * a * a, b1 += (1 - p) * b, b2 += (1 - p) * b * b;
    }
    double to_m1 = a1 * w1 - m1 / 4, to_m2 = b1 * w2 - m2 / 4;
    g[0] = to_m1 + to_m2, g[1] = to_m2 * gap + 1;
    g[2] = a2 - p1 - s1 * s1 / 4 + 1, g[3] = b2 - (n - p1) - s2 * s2 / 4 + 1;
    g[4] = p1 - n * theta + 5 - 10 * theta;
    double prior = 5 * log(theta) + 5 * log(1 - theta) + u[1] + u[2] + u[3];
    return sum + n * (log(theta) - u[2]) + prior - (m1 * m1 + m2 * m2 + s1 * s1 + s2 * s2) / 8;
}

/* --- Lotka and Volterra: Runge's and Kutta's steps, and their adjoint --- */

typedef double Pair[2];

static void slope(const double *p, const double *z, double *out) {
    out[0] = (p[0] - p[1] * z[1]) * z[0], out[1] = (p[3] * z[0] - p[2]) * z[1];
}

/* What k, the adjoint of a slope at z, adds to those of the parameters; that of z goes to out. */
static void slope_adjoint(const double *p, const double *z, const double *k, double *to_p,
                          double *out) {
    to_p[0] += k[0] * z[0], to_p[1] -= k[0] * z[0] * z[1];
    to_p[2] -= k[1] * z[1], to_p[3] += k[1] * z[0] * z[1];
    out[0] = k[0] * (p[0] - p[1] * z[1]) + k[1] * p[3] * z[1];
    out[1] = k[1] * (p[3] * z[0] - p[2]) - k[0] * p[1] * z[0];
}

/* A step from stage[0], whose other points go to stage[1..3]. */
static void step(const double *p, double h, Pair *stage, double *out) {
    static const double along[3] = {0.5, 0.5, 1}, weight[4] = {1, 2, 2, 1};
    double k[2], sum[2] = {0, 0};
    for (int s = 0; s < 4; s++) {
        slope(p, stage[s], k);
        for (int i = 0; i < 2; i++) {
            sum[i] += weight[s] * k[i];
            if (s < 3) stage[s + 1][i] = stage[0][i] + along[s] * h * k[i];
        }
    }
    for (int i = 0; i < 2; i++) out[i] = stage[0][i] + h / 6 * sum[i];
}

/* bar, the adjoint of the end of a step, becomes that of its start. */
static void step_adjoint(const double *p, double h, Pair *stage, double *bar, double *to_p) {
    static const double along[3] = {0.5, 0.5, 1}, weight[4] = {1, 2, 2, 1};
    double k[2], out[2], end[2] = {bar[0], bar[1]};
    for (int s = 3; s >= 0; s--) {
        for (int i = 0; i < 2; i++)
            k[i] = h / 6 * weight[s] * end[i] + (s < 3 ? along[s] * h * out[i] : 0);
        slope_adjoint(p, stage[s], k, to_p, out);
        bar[0] += out[0], bar[1] += out[1];
    }
}

/* y: logarithms, those of the start first, n years in all; number: how many steps a year */
double lv(const double *u, double *g, const Data *data) {
    int each = data->number, steps = (data->n - 1) * each;
    double p[8], h = 1.0 / each, to_p[4] = {0}, errors[2] = {0}, bar[2] = {0}, lp = 0;
    Pair stages[steps + 1][4];
    for (int i = 0; i < 8; i++) p[i] = exp(u[i]);
    memcpy(stages[0][0], p + 4, sizeof(Pair));
    for (int m = 0; m < steps; m++) step(p, h, stages[m], stages[m + 1][0]);
    for (int m = steps; m >= 0; m--) {
        if (m < steps) step_adjoint(p, h, stages[m], bar, to_p);
        if (m % each) continue;
        for (int i = 0; i < 2; i++) {
            double z = stages[m][0][i], r = (data->y[2 * (m / each) + i] - log(z)) / p[6 + i];
            errors[i] += r * r, bar[i] += r / (p[6 + i] * z);
        }
    }
    static const double mean[4] = {1, 0.05, 1, 0.05}, sd[4] = {0.5, 0.05, 0.5, 0.05};
    for (int i = 0; i < 4; i++) {
        double r = (p[i] - mean[i]) / sd[i];
        lp += u[i] - r * r / 2, g[i] = (to_p[i] - r / sd[i]) * p[i] + 1;
    }
    for (int i = 0; i < 2; i++) {
        double first = u[4 + i] - log(10), scale = u[6 + i] + 1;
        lp -= (errors[i] + first * first + scale * scale) / 2 + data->n * u[6 + i];
        g[4 + i] = bar[i] * p[4 + i] - first, g[6 + i] = errors[i] - data->n - scale;
    }
    return lp;
}
