// Decompositions of square matrices of V, and solutions by triangles.

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
    std::vector<V> w(n * n);
    V failed = splat(0);
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
    std::vector<V> identity(n * n), y(n * n), transposed(n * n);
    for (long k = 0; k < n * n; k++) identity[k] = splat(k % (n + 1) == 0);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < n; j++) transposed[j * n + i] = l[i * n + j];
    solve_lower<n, n, false>(l, identity.data(), y.data());
    solve_upper<n, n, false>(transposed.data(), y.data(), x);
    return splat(0);
}
