// The no-U-turn sampler of nuts.py for many chains at once.  Each chain is a state machine that waits
// for the gradient at one point; one call of the density serves all of them, and a chain that ends
// its trajectory begins the next at once (Dance et al., arXiv 2503.17405).
//
// Names, criteria and the order of random choices are those of nuts.py, which defines the transition:
// with its choices given, a chain here makes the same one.
//
// Behind the d numbers that move, a chain may have m whole ones, of which each is drawn from its
// conditional after each trajectory (Gibbs sampling), as within_gibbs.py defines.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

static const double DIVERGENCE = 1000.0, IMPOSSIBLE = -1e30;

// u [d + m][count], tables, results: log density [count], gradient [d + m][count], failed [count]
typedef void (*Density)(long count, const REAL *, const void *const *, REAL *const *, void *work);

// ---------------------------------------------------------------------------------- random choices

// xoshiro256++ (Blackman and Vigna 2021); or a stream of given choices, which tests enumerate
struct Source {
    uint64_t *state;       // [4]
    const double *given;   // normals, and uniforms for steps and coins, in order; or null
    long left;             // how many are still given
    double *asked;         // the probability of each coin that was asked for
    long coins = 0;

    static uint64_t turned(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

    uint64_t next() {
        uint64_t *s = state, result = turned(s[0] + s[3], 23) + s[0], t = s[1] << 17;
        s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t;
        s[3] = turned(s[3], 45);
        return result;
    }
    double uniform() { return std::min(((next() >> 11) + 0.5) * 0x1p-53, 1 - 0x1p-53); }  // not 1
    double choice() { return left > 0 ? left--, *given++ : 1.0; }
    double share() { return given ? choice() : uniform(); }

    bool coin(double probability) {
        if (asked) asked[coins] = probability;
        coins++;
        return share() < probability;
    }

    void normals(REAL *to, long n) {
        if (given) {
            for (long i = 0; i < n; i++) to[i] = choice();
            return;
        }
        for (long i = 0; i < n; i += 2) {  // Marsaglia's polar method
            double x, y, r;
            do x = 2 * uniform() - 1, y = 2 * uniform() - 1, r = x * x + y * y;
            while (r >= 1 || r == 0);
            double f = std::sqrt(-2 * std::log(r) / r);
            to[i] = x * f;
            if (i + 1 < n) to[i + 1] = y * f;
        }
    }
};

// ----------------------------------------------------------------------------------------- vectors

static double logaddexp(double a, double b) {
    return std::max(a, b) + std::log1p(std::exp(-std::fabs(a - b)));
}

static double dot(const REAL *__restrict a, const REAL *__restrict b, long d) {
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (long i = 0; i < d; i++) s += a[i] * b[i];
    return s;
}

// y += a x
static void add(REAL *__restrict y, REAL a, const REAL *__restrict x, long d) {
#pragma omp simd
    for (long i = 0; i < d; i++) y[i] += a * x[i];
}

// I + U' diag(stretch) U, for orthonormal rows of U = directions [rank][d]
struct Stretch {
    long rank;
    const REAL *directions, *stretch;
    void apply(REAL *x, REAL *memory, long d) const {
        for (long k = 0; k < rank; k++) memory[k] = stretch[k] * dot(directions + k * d, x, d);
        for (long k = 0; k < rank; k++) add(x, memory[k], directions + k * d, d);
    }
};

struct Span {
    REAL *first, *last, *total;  // momenta of a stretch of orbit: at its ends, and summed
};

// Whether two adjacent stretches, joined, turn back, as a whole or across the seam
static bool turned(const Span &left, const Span &right, long d) {
    double a = 0, b = 0, c = 0, e = 0, f = 0, g = 0;
#pragma omp simd reduction(+ : a, b, c, e, f, g)
    for (long i = 0; i < d; i++) {
        REAL total = left.total[i] + right.total[i];
        REAL left_seam = left.total[i] + right.first[i], right_seam = left.last[i] + right.total[i];
        a += left.first[i] * total, b += right.last[i] * total;
        c += left.first[i] * left_seam, e += right.first[i] * left_seam;
        f += left.last[i] * right_seam, g += right.last[i] * right_seam;
    }
    return a <= 0 || b <= 0 || c <= 0 || e <= 0 || f <= 0 || g <= 0;
}

struct Phase {
    REAL *position, *momentum, *gradient;
    double log_density, log_weight;
};

// ------------------------------------------------------------------------------------------ chains

// Searches the step size at which the mean acceptance is the target, as adaptation.py does
struct Averaging {
    double log_step, log_average, error, centre, tried;
    void learn(double acceptance, double target) {
        tried += 1;
        double weight = 1 / (tried + 10), decay = std::pow(tried, -0.75);
        error = (1 - weight) * error + weight * (target - acceptance);
        log_step = centre - std::sqrt(tried) / 0.05 * error;
        log_average = decay * log_step + (1 - decay) * log_average;
    }
};

// What one transition did, in the order of NUTSInfo
struct Info {
    double acceptance_rate, diverging, energy, tree_depth, n_steps, log_density;
};

struct Chain {
    long d, max_depth;
    double jitter;
    Stretch stretch;
    Source source;
    std::vector<REAL> memory;
    REAL *scale;            // the step along each coordinate for unit momentum, before jitter
    REAL factor = 1;        // of the steps of this transition
    REAL *drift, *products;  // of a leapfrog, while it is computed

    Phase state;  // where the transition starts; its momentum is not used
    // the tree
    Phase left, right, proposal;
    double log_weight, lowest, reference;
    REAL *total;
    int depth;
    // the subtree that is being built, of `size` leaves of which `edge` is the last
    bool forward;
    long size;
    Phase edge, candidate;
    double subtree_weight, subtree_lowest;
    std::vector<Span> spans;
    int stretches;
    // of the transition
    double accept_sum;
    long leapfrogs;
    bool divergent;
    Info info;
    // the sweep over the whole numbers
    long m = 0;
    const long *sizes;      // [m]: how many values each has
    std::vector<REAL> whole;
    std::vector<double> weights;  // of the values of `drawn`, the log density at each
    long drawn = -1, tried;       // -1: there is no sweep; m: the gradient at its end is awaited

    Chain(long d, long max_depth, double jitter, Stretch stretch)
        : d(d), max_depth(max_depth), jitter(jitter), stretch(stretch) {
        memory.assign((size_t) (3 * 6 + 3 + 3 * (max_depth + 2)) * d + stretch.rank, 0);
        REAL *next = memory.data();
        auto vector = [&]() { return (next += d) - d; };
        for (Phase *p : {&state, &left, &right, &proposal, &edge, &candidate})
            p->position = vector(), p->momentum = vector(), p->gradient = vector();
        total = vector(), scale = vector(), drift = vector();
        spans.resize(max_depth + 2);
        for (int k = 0; k < max_depth + 2; k++)
            spans[k].first = vector(), spans[k].last = vector(), spans[k].total = vector();
        products = next;
    }

    void copy(REAL *to, const REAL *from) { std::memcpy(to, from, d * sizeof(REAL)); }

    void copy(Phase &to, const Phase &from) {
        copy(to.position, from.position), copy(to.momentum, from.momentum);
        copy(to.gradient, from.gradient);
        to.log_density = from.log_density, to.log_weight = from.log_weight;
    }

    double weight(const Phase &p) {
        double w = p.log_density - 0.5 * dot(p.momentum, p.momentum, d);
        return std::isfinite(w) ? w : IMPOSSIBLE;
    }

    void begin() {
        source.normals(state.momentum, d);
        if (jitter > 0) factor = 1 + jitter * (2 * source.share() - 1);
        state.log_weight = weight(state);
        copy(left, state), copy(right, state), copy(proposal, state), copy(total, state.momentum);
        log_weight = lowest = reference = state.log_weight;
        depth = 0, accept_sum = 0, leapfrogs = 0, divergent = false;
        double_tree();
    }

    void double_tree() {
        forward = source.coin(0.5);
        copy(edge, forward ? right : left);
        size = 0, stretches = 0;
        depart();
    }

    // Half a kick in the gradient at the edge
    void kick() {
        const REAL sign = forward ? factor : -factor;
        for (long i = 0; i < d; i++) drift[i] = (sign * scale[i]) * edge.gradient[i];
        stretch.apply(drift, products, d);
        add(edge.momentum, REAL(0.5), drift, d);
    }

    // The first kick of a leapfrog and its drift; the gradient at the new position is awaited
    void depart() {
        kick();
        const REAL sign = forward ? factor : -factor;
        copy(drift, edge.momentum);
        stretch.apply(drift, products, d);
        for (long i = 0; i < d; i++) edge.position[i] += (sign * scale[i]) * drift[i];
    }

    // The second kick: `edge` is a new leaf.  Whether the transition is over
    bool arrive() {
        kick();
        edge.log_weight = weight(edge);
        add_leaf();
        if (subtree_lowest < std::max(subtree_weight, log_weight) - DIVERGENCE) {
            divergent = true;
            return true;
        }
        if (close_spans()) return true;
        if (size < 1L << depth) {
            depart();
            return false;
        }
        return join();
    }

    void add_leaf() {
        double w = edge.log_weight;
        size++, leapfrogs++;
        accept_sum += std::exp(std::min(w - reference, 0.0));
        if (size == 1) {
            copy(candidate, edge);
            subtree_weight = subtree_lowest = w;
            return;
        }
        if (source.coin(1 / (1 + std::exp(subtree_weight - w)))) copy(candidate, edge);
        subtree_weight = logaddexp(subtree_weight, w);
        subtree_lowest = std::min(subtree_lowest, w);
    }

    // Add the leaf to the spans of aligned subtrees, as one to a binary number; whether one turned
    bool close_spans() {
        Span &leaf = spans[stretches++];
        copy(leaf.first, edge.momentum), copy(leaf.last, edge.momentum);
        copy(leaf.total, edge.momentum);
        for (long n = size; n % 2 == 0; n /= 2) {
            Span &a = spans[stretches - 2], &b = spans[stretches - 1];
            if (turned(a, b, d)) return true;
            std::swap(a.last, b.last);
            for (long i = 0; i < d; i++) a.total[i] += b.total[i];
            stretches--;
        }
        return false;
    }

    // The tree and the subtree become one; whether the transition is over
    bool join() {
        double take = std::exp(std::min(subtree_weight - log_weight, 0.0));
        if (source.coin(take)) std::swap(proposal, candidate);
        Phase &near = forward ? right : left, &far = forward ? left : right;
        Span old{far.momentum, near.momentum, total};
        bool turning = turned(old, spans[0], d);
        log_weight = logaddexp(log_weight, subtree_weight);
        lowest = std::min(lowest, subtree_lowest);
        bool diverges = lowest < log_weight - DIVERGENCE;
        divergent = divergent || diverges;
        depth++;
        if (turning || diverges || depth == max_depth) return true;
        std::swap(near, edge);
        for (long i = 0; i < d; i++) total[i] += spans[0].total[i];
        double_tree();
        return false;
    }

    void end() {
        std::swap(state, proposal);
        info = {accept_sum / leapfrogs, double(divergent), -state.log_weight, double(depth),
                double(leapfrogs), state.log_density};
    }

    void copy_whole(REAL *to) const {
        std::memcpy(to, state.position, d * sizeof(REAL));
        std::copy(whole.begin(), whole.end(), to + d);
    }

    // The point at which the density is asked for: of the trajectory, or of the sweep
    void ask(REAL *to, long count) const {
        const REAL *from = (drawn < 0 ? edge : state).position;
        for (long i = 0; i < d; i++) to[i * count] = from[i];
        for (long i = 0; i < m; i++) to[(d + i) * count] = i == drawn ? REAL(tried) : whole[i];
    }

    void begin_sweep() {
        drawn = 0, tried = -1;
        go_on();
    }

    // To the next value whose density is not known; numbers of which all are known are drawn
    void go_on() {
        for (; drawn < m; drawn++, tried = -1) {
            if (tried < 0) weights.assign(sizes[drawn], 0);
            tried++;
            if (tried == whole[drawn]) weights[tried++] = state.log_density;
            if (tried < sizes[drawn]) return;
            choose();
        }
    }

    // One coin for each value but the last, until it shows heads
    void choose() {
        std::vector<double> left(weights);  // log sums of the weights from each value on
        for (double &w : left) w = std::isfinite(w) ? w : IMPOSSIBLE;
        for (long k = sizes[drawn] - 2; k >= 0; k--) left[k] = logaddexp(left[k], left[k + 1]);
        long k = 0;
        while (k < sizes[drawn] - 1) {
            double w = std::isfinite(weights[k]) ? weights[k] : IMPOSSIBLE;
            if (source.coin(std::exp(w - left[k]))) break;
            k++;
        }
        whole[drawn] = k, state.log_density = weights[k];
    }

    // What the density is where it was asked for; whether the sweep is over
    bool told(double value, const REAL *slope, long count) {
        if (drawn < m) {
            weights[tried] = value;
            go_on();
            return false;
        }
        for (long i = 0; i < d; i++) state.gradient[i] = slope[i * count];
        state.log_density = info.log_density = value;
        drawn = -1;
        return true;
    }
};

// ------------------------------------------------------------------------------------------- a run

struct Run {
    Density density;
    const void *const *tables;
    void *work;
    long chains, d, m, transitions, max_depth, results;
    REAL *position, *log_density, *gradient;  // [chains][d + m], [chains], [chains][d]
    const long *sizes;                        // [m]: how many values the last m numbers have
    const REAL *root_mass;                    // [d]: the roots of the diagonal inverse metric
    long rank;                                // of what stretches besides: see Stretch
    const REAL *directions, *stretch;
    double *averaging;                        // [chains][5]: the step size of each
    double target;                            // adapt the step sizes to this acceptance, if > 0
    double jitter;                            // the share by which steps vary
    uint64_t *random;                         // [chains][4]
    REAL *draws, *gradients;                  // [chains][transitions][d + m]; [..][d] or null
    double *infos;                            // [chains][transitions][6]
    long *failures;                           // [chains][transitions]: points without decomposition
    const double *given;                      // [chains][count]: choices, or null
    long given_count;
    double *asked;                            // [chains][asked_count]: probabilities of coins
    long asked_count;
    long evaluations;                         // calls of the density, each for all that wait
    int (*stop)();                            // asked ten times a second: whether to stop at once
};

extern "C" void run(Run *r) {
    const long d = r->d, m = r->m, width = d + m;
    std::vector<Chain> chains;
    chains.reserve(r->chains);
    auto averaging = (Averaging *) r->averaging;
    auto rescale = [&](long c) {
        double step = std::exp(averaging[c].log_step);
        for (long i = 0; i < d; i++) chains[c].scale[i] = step * r->root_mass[i];
    };
    for (long c = 0; c < r->chains; c++) {
        chains.emplace_back(d, r->max_depth, r->jitter, Stretch{r->rank, r->directions, r->stretch});
        Chain &x = chains[c];
        x.source.state = r->random + 4 * c;
        x.source.given = r->given ? r->given + c * r->given_count : nullptr;
        x.source.left = r->given_count;
        x.source.asked = r->asked ? r->asked + c * r->asked_count : nullptr;
        const REAL *at = r->position + c * width;
        x.copy(x.state.position, at), x.copy(x.state.gradient, r->gradient + c * d);
        x.m = m, x.sizes = r->sizes, x.whole.assign(at + d, at + width);
        x.state.log_density = r->log_density[c];
        rescale(c);
        x.begin();
    }
    std::vector<long> waiting, done(r->chains, 0);
    for (long c = 0; c < r->chains; c++)
        if (r->transitions > 0) waiting.push_back(c);
    std::vector<REAL> at(width * r->chains), slope(width * r->chains);
    std::vector<REAL> value(r->chains), failed(r->chains);
    REAL *const results[] = {value.data(), slope.data(), failed.data()};
    r->evaluations = 0;
    auto asked_at = std::chrono::steady_clock::now();
    while (!waiting.empty()) {
        const long count = waiting.size();
        for (long k = 0; k < count; k++) chains[waiting[k]].ask(at.data() + k, count);
        r->density(count, at.data(), r->tables, results, r->work);
        r->evaluations++;
        if (std::chrono::steady_clock::now() - asked_at > std::chrono::milliseconds(100)) {
            if (r->stop()) {
                r->evaluations = -1;
                return;
            }
            asked_at = std::chrono::steady_clock::now();
        }
        long kept = 0;
        for (long k = 0; k < count; k++) {
            const long c = waiting[k];
            Chain &x = chains[c];
            const long row = c * r->transitions + done[c];
            if (r->results > 2 && failed[k] != 0) r->failures[row]++;
            bool over;
            if (x.drawn < 0) {
                for (long i = 0; i < d; i++) x.edge.gradient[i] = slope[i * count + k];
                x.edge.log_density = value[k];
                over = x.arrive();
                if (over) x.end();
                if (over && m > 0) x.begin_sweep(), over = false;
            } else {
                over = x.told(value[k], slope.data() + k, count);
            }
            if (over) {
                done[c]++;
                x.copy_whole(r->draws + row * width);
                if (r->gradients) x.copy(r->gradients + row * d, x.state.gradient);
                std::memcpy(r->infos + row * 6, &x.info, sizeof x.info);
                if (r->target > 0) averaging[c].learn(x.info.acceptance_rate, r->target), rescale(c);
                if (done[c] == r->transitions) {
                    x.copy_whole(r->position + c * width);
                    x.copy(r->gradient + c * d, x.state.gradient);
                    r->log_density[c] = x.state.log_density;
                    if (r->asked) r->asked[(c + 1) * r->asked_count - 1] = x.source.coins;
                    continue;
                }
                x.begin();
            }
            waiting[kept++] = c;
        }
        waiting.resize(kept);
    }
}
