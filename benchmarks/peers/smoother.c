/* Kalman filter and smoother of x_t = A_t x_(t-1) + N(0, Q_t), y_t ~ N(x_t[0], r), NaN not seen.

   States S of 1 to 3; A, Q [T, S, S] row by row; means [T, S] and covariances [T, S, S] of the
   smoother are written. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef S
#define S 2
#endif
typedef double matrix[S][S];

static void product(matrix a, matrix b, matrix out) {
    for (int i = 0; i < S; i++)
        for (int j = 0; j < S; j++) {
            double sum = 0;
            for (int k = 0; k < S; k++) sum += a[i][k] * b[k][j];
            out[i][j] = sum;
        }
}

static void by_transpose(matrix a, matrix b, matrix out) {
    for (int i = 0; i < S; i++)
        for (int j = 0; j < S; j++) {
            double sum = 0;
            for (int k = 0; k < S; k++) sum += a[i][k] * b[j][k];
            out[i][j] = sum;
        }
}

/* X with X p = b, by Cholesky: p is positive definite. */
static void divided(matrix b, matrix p, matrix out) {
    matrix l;
    for (int i = 0; i < S; i++)
        for (int j = 0; j <= i; j++) {
            double sum = p[i][j];
            for (int k = 0; k < j; k++) sum -= l[i][k] * l[j][k];
            l[i][j] = i == j ? sqrt(sum) : sum / l[j][j];
        }
    for (int row = 0; row < S; row++) {
        double v[S];
        for (int i = 0; i < S; i++) {
            double sum = b[row][i];
            for (int k = 0; k < i; k++) sum -= l[i][k] * v[k];
            v[i] = sum / l[i][i];
        }
        for (int i = S - 1; i >= 0; i--) {
            double sum = v[i];
            for (int k = i + 1; k < S; k++) sum -= l[k][i] * out[row][k];
            out[row][i] = sum / l[i][i];
        }
    }
}

double smoothed(long T, matrix *A, matrix *Q, double *y, double r, double *mean, matrix *cov) {
    double(*m)[S] = (void *)mean, *ahead = malloc(T * S * sizeof(double)), mass = 0;
    matrix *spread = malloc(T * sizeof(matrix));
    for (long t = 0; t < T; t++) {
        double *p = ahead + t * S;
        matrix half;
        if (t) {
            product(A[t], cov[t - 1], half);
            by_transpose(half, A[t], spread[t]);
        } else
            memset(spread[t], 0, sizeof(matrix));
        for (int i = 0; i < S; i++) {
            p[i] = 0;
            for (int j = 0; j < S; j++) {
                if (t) p[i] += A[t][i][j] * m[t - 1][j];
                spread[t][i][j] += Q[t][i][j];
            }
        }
        memcpy(m[t], p, S * sizeof(double));
        memcpy(cov[t], spread[t], sizeof(matrix));
        if (isnan(y[t])) continue;
        double s = spread[t][0][0] + r, miss = y[t] - p[0];
        mass -= (log(2 * M_PI * s) + miss * miss / s) / 2;
        for (int i = 0; i < S; i++) {
            m[t][i] += spread[t][i][0] / s * miss;
            for (int j = 0; j < S; j++)
                cov[t][i][j] -= spread[t][i][0] * spread[t][j][0] / s;
        }
    }
    for (long t = T - 2; t >= 0; t--) {
        matrix cross, gain, change, half, more;
        by_transpose(cov[t], A[t + 1], cross);
        divided(cross, spread[t + 1], gain);
        for (int i = 0; i < S; i++)
            for (int j = 0; j < S; j++) {
                change[i][j] = cov[t + 1][i][j] - spread[t + 1][i][j];
                m[t][i] += gain[i][j] * (m[t + 1][j] - ahead[(t + 1) * S + j]);
            }
        product(gain, change, half);
        by_transpose(half, gain, more);
        for (int i = 0; i < S; i++)
            for (int j = 0; j < S; j++) cov[t][i][j] += more[i][j];
    }
    free(ahead);
    free(spread);
    return mass;
}
