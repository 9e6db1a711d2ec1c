/* NUTS by hand, one chain at a time, on a log density with a gradient by hand: see densities.c.

   Multinomial sampling of the trajectory, the generalised U-turn criterion with two more checks
   across subtrees, a diagonal metric, dual averaging to 0.8 and warm-up windows as in Stan (75,
   then 25 doubled, then 50). Sources: Hoffman and Gelman, The No-U-Turn Sampler (JMLR 15, 2014);
   Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo (arXiv 1701.02434). */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "nuts.h"

#define MOST 96 /* coordinates */
#define DEPTH 10

typedef double Vector[MOST];
typedef struct {
    Vector q, p, g;
    double log_density;
} State;
typedef struct { /* first and last are in the order in which the states were made */
    Vector sum, first, last;
    double log_weight;
    State proposal;
} Tree;

static Density *density;
static const Data *data;
static int d;
static Vector inverse_mass;
static double step_size, energy, accepted;
static long gradients, states;
static int diverged;

/* --- random numbers: xoshiro256**, seeded by splitmix64 --- */

static uint64_t random_state[4];

static uint64_t rotated(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static double uniform(void) {
    uint64_t *s = random_state, bits = rotated(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0], s[3] ^= s[1], s[1] ^= s[2], s[0] ^= s[3], s[2] ^= t, s[3] = rotated(s[3], 45);
    return ((bits >> 11) + 0.5) * 0x1.0p-53;
}

/* Standard normal numbers, by pairs: x must hold one more where d is odd. */
static void fill_normal(double *x, int d) {
    for (int i = 0; i < d; i += 2) {
        double radius = sqrt(-2 * log(uniform())), angle = 2 * M_PI * uniform();
        x[i] = radius * cos(angle), x[i + 1] = radius * sin(angle);
    }
}

static void seed_generator(uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t x = seed += 0x9e3779b97f4a7c15;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9, x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
        random_state[i] = x ^ (x >> 31);
    }
}

/* --- one transition --- */

static void copy(double *to, const double *from) { memcpy(to, from, d * sizeof(double)); }

static void take(State *to, const State *from) {
    copy(to->q, from->q), copy(to->g, from->g);
    to->log_density = from->log_density;
}

static double log_add(double a, double b) {
    double m = fmax(a, b);
    return m == -INFINITY ? m : m + log1p(exp(-fabs(a - b)));
}

static double kinetic(const double *p) {
    double sum = 0;
    for (int i = 0; i < d; i++) sum += inverse_mass[i] * p[i] * p[i];
    return sum / 2;
}

/* Whether the ends of a trajectory, whose momenta sum to a + b, move apart no more. */
static int turns(const double *start, const double *end, const double *a, const double *b) {
    double left = 0, right = 0;
    for (int i = 0; i < d; i++) {
        double along = inverse_mass[i] * (a[i] + b[i]);
        left += along * start[i], right += along * end[i];
    }
    return !(left > 0 && right > 0);
}

static void leapfrog(State *s, double step) {
    for (int i = 0; i < d; i++) {
        s->p[i] += step / 2 * s->g[i];
        s->q[i] += step * inverse_mass[i] * s->p[i];
    }
    s->log_density = density(s->q, s->g, data);
    for (int i = 0; i < d; i++) s->p[i] += step / 2 * s->g[i];
    gradients++;
}

static int leaf(State *s, double step, Tree *tree) {
    leapfrog(s, step);
    double gain = s->log_density - kinetic(s->p) + energy;
    if (!(gain >= -INFINITY)) gain = -INFINITY; /* NaN */
    accepted += gain > 0 ? 1 : exp(gain), states++;
    tree->log_weight = gain, take(&tree->proposal, s);
    copy(tree->sum, s->p), copy(tree->first, s->p), copy(tree->last, s->p);
    if (gain < -1000) diverged = 1;
    return !diverged;
}

/* Of two trees, of which b was made after a, one in a. Whether the whole may be extended. */
static int join(Tree *a, const Tree *b, double probability) {
    if (uniform() < probability) take(&a->proposal, &b->proposal);
    int turned = turns(a->first, b->last, a->sum, b->sum)
                 || turns(a->first, b->first, a->sum, b->first)
                 || turns(a->last, b->last, b->sum, a->last);
    for (int i = 0; i < d; i++) a->sum[i] += b->sum[i];
    a->log_weight = log_add(a->log_weight, b->log_weight);
    copy(a->last, b->last);
    return !turned;
}

/* A tree of 2^depth states that go on from s; false where it diverges or turns. */
static int grow(int depth, State *s, double step, Tree *tree) {
    if (depth == 0) return leaf(s, step, tree);
    Tree other;
    if (!grow(depth - 1, s, step, tree) || !grow(depth - 1, s, step, &other)) return 0;
    double both = log_add(tree->log_weight, other.log_weight);
    return join(tree, &other, exp(other.log_weight - both));
}

/* The same tree in the opposite order. */
static void reverse(Tree *tree) {
    Vector first;
    copy(first, tree->first), copy(tree->first, tree->last), copy(tree->last, first);
}

static double transition(State *current) {
    State ends[2];
    fill_normal(current->p, d);
    for (int i = 0; i < d; i++) current->p[i] /= sqrt(inverse_mass[i]);
    ends[0] = ends[1] = *current;
    energy = kinetic(current->p) - current->log_density;
    accepted = states = diverged = 0;
    Tree whole = {.log_weight = 0, .proposal = *current}, more;
    copy(whole.sum, current->p), copy(whole.first, current->p), copy(whole.last, current->p);
    for (int depth = 0; depth < DEPTH; depth++) {
        int back = uniform() < 0.5;
        if (!grow(depth, &ends[back], back ? -step_size : step_size, &more)) break;
        if (back) reverse(&whole);
        int fine = join(&whole, &more, exp(more.log_weight - whole.log_weight));
        if (back) reverse(&whole);
        if (!fine) break;
    }
    take(current, &whole.proposal);
    return accepted / states;
}

/* --- warm-up --- */

static struct {
    double centre, error, log_average;
    int steps;
} averaging;

static void restart(double centre) {
    averaging.centre = centre;
    averaging.error = averaging.log_average = averaging.steps = 0;
}

static void learn_step_size(double acceptance) {
    int t = ++averaging.steps;
    averaging.error += (0.8 - acceptance - averaging.error) / (t + 10);
    double log_step = averaging.centre - sqrt(t) / 0.05 * averaging.error;
    averaging.log_average += pow(t, -0.75) * (log_step - averaging.log_average);
    step_size = exp(log_step);
}

static struct {
    Vector mean, squares;
    long count;
} seen;

static void see(const double *q) {
    seen.count++;
    for (int i = 0; i < d; i++) {
        double off = q[i] - seen.mean[i];
        seen.mean[i] += off / seen.count;
        seen.squares[i] += off * (q[i] - seen.mean[i]);
    }
}

static void learn_metric(void) {
    double n = seen.count;
    for (int i = 0; i < d; i++)
        inverse_mass[i] = (n * seen.squares[i] / (n - 1) + 5e-3) / (n + 5);
    memset(&seen, 0, sizeof seen);
    restart(log(10 * step_size));
}

static void warm_up(State *s, int transitions) {
    int last = transitions - 50, window = 25, end = 75 + window;
    for (int done = 1; done <= transitions; done++) {
        learn_step_size(transition(s));
        if (done > 75 && done <= last) see(s->q);
        if (done != end || done > last) continue;
        learn_metric();
        end += window *= 2;
        if (end + 2 * window > last) end = last;
    }
    step_size = exp(averaging.log_average);
}

/* One chain from ``start``: its draws [draws, dim], and how many gradients and divergences. */
void nuts(Density *function, const Data *its_data, int dim, uint64_t seed, const double *start,
          int warmup, int draws, double *out, long *counts) {
    density = function, data = its_data, d = dim;
    gradients = 0, counts[1] = 0, step_size = 0.1;
    memset(&seen, 0, sizeof seen);
    for (int i = 0; i < d; i++) inverse_mass[i] = 1;
    seed_generator(seed);
    restart(0);
    State s;
    copy(s.q, start);
    s.log_density = density(s.q, s.g, data);
    warm_up(&s, warmup);
    for (int i = 0; i < draws; i++) {
        transition(&s);
        counts[1] += diverged;
        copy(out + (long)i * d, s.q);
    }
    counts[0] = gradients;
}
