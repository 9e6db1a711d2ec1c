// The loop over time of a particle filter whose particles are vectors: see ``filtering.py``, which
// defines it.  Given the choices of a run there, it makes the same populations.

// u [coordinates + noise][count], tables -> what is carried [carried][count], outputs, log weight
typedef void (*Step)(long count, const NUMBER *, const void *const *, NUMBER *const *, void *work);

enum Scheme { SYSTEMATIC, STRATIFIED, MULTINOMIAL };

struct Code {
    Step call;
    const void *const *tables;
    void *work;
    long noise;
    const int64_t *normal;  // [noise]: whether a number is normal, or uniform
    long points;            // numbers before its noise, which are coordinates of a net
};

struct Run {  // in the order of engine.py
    Code start, step, ahead;  // ahead: what a particle is worth before a step, if one looks
    int64_t *time;            // the number of the step, which tables hold
    long particles, steps;
    long before, carried, outputs;  // numbers of a particle: fixed at its start, carried, and given
    const int64_t *moved;           // [before]: whether a number is looked at again
    long scheme;
    double ess;
    Key key;
    const double *given;  // the choices in order, or null
    NUMBER *state;        // [before + carried][particles]: at the end
    double *log_weights;  // [particles]: at the end, but for a factor 1 / particles
    NUMBER *history;      // [steps][outputs][particles], or null
    int64_t *ancestors;   // [steps][particles], or null
    NUMBER *states;       // [steps + 1][before + carried][particles], from the start on, or null
    double *weights;      // [steps + 1][particles], likewise
    Digits digits;        // of nets by which particles move, if it has any
};

static const long PART = 512;  // so many particles go through a step together
static const int COPIES = 8;   // of one particle are written at once

struct Filter {
    Run *run;
    long n, coordinates;
    std::vector<NUMBER> other, columns, carried, outputs, log_weight;
    std::vector<double> ends, points, ahead, seen, grid;
    std::vector<int32_t> chosen, order;
    std::vector<int64_t> coins;
    uint64_t place = 0;  // of the next stream of numbers

    explicit Filter(Run *run) : run(run), n(run->particles), coordinates(run->before + run->carried) {
        long noise = run->ahead.noise;
        for (const Code *code : {&run->start, &run->step})
            noise = std::max(noise, code->points + code->noise);
        other.resize(run->states ? 0 : coordinates * n), columns.resize((coordinates + noise) * PART);
        carried.resize(coordinates * PART), outputs.resize(run->outputs * PART), log_weight.resize(PART);
        ends.resize(n + 8), points.resize(n + 1), chosen.resize(n + COPIES);
        if (run->ahead.call) ahead.resize(n), seen.resize(n);
        if (run->digits.all) order.resize(n);
    }

    // Numbers of all particles [coordinates][n] before step t
    NUMBER *at(long t) {
        if (run->states) return run->states + t * coordinates * n;
        return t % 2 ? other.data() : run->state;
    }

    void keep(long t) {
        if (run->weights) std::copy_n(run->log_weights, n, run->weights + t * n);
    }

    // Uniform numbers for n or fewer points
    void uniforms(long count) {
        if (run->given) {
            std::copy(run->given, run->given + count, points.begin());
            run->given += count;
        } else {
            draw(points.data(), 0, count, run->key, place++, false);
        }
    }

    // A net of points in as many coordinates, in ``grid``
    void scatter(long d) {
        grid.resize(d * n);
        if (!d) return;
        if (run->given) {
            std::copy_n(run->given, d * n, grid.begin());
            run->given += d * n;
            return;
        }
        long count = d * (1 + run->digits.columns);
        std::vector<double> uniform(count);
        draw(uniform.data(), 0, count, run->key, place++, false);
        coins.resize(count);
        for (long i = 0; i < count; i++) coins[i] = uniform[i] * ((int64_t) 1 << run->digits.all);
        net(n, d, run->digits, coins.data(), grid.data());
    }

    // The points and the noise of particles [first, first + some), behind the coordinates in the columns
    void noise(const Code &code, NUMBER *to, long first, long some) {
        const double *point = grid.data() + (long) grid.size() - code.points * n + first;
        for (long k = 0; k < code.points; k++, to += some, point += n)
            for (long i = 0; i < some; i++) to[i] = point[i];
        for (long k = 0; k < code.noise; k++, to += some) {
            if (run->given) {
                const double *from = run->given + k * n + first;
                for (long i = 0; i < some; i++) to[i] = from[i];
            } else {
                draw(to, first, some, run->key, place + k, code.normal[k]);
            }
        }
    }

    void used(const Code &code) {
        if (run->given) run->given += code.noise * n;
        else place += code.noise;
    }

    void start() {
        scatter(run->start.points);
        for (long first = 0; first < n; first += PART) {
            long some = std::min(PART, n - first);
            noise(run->start, columns.data(), first, some);
            NUMBER *results[] = {carried.data(), log_weight.data()};
            run->start.call(some, columns.data(), run->start.tables, results, run->start.work);
            for (long k = 0; k < coordinates; k++)
                std::copy_n(&carried[k * some], some, at(0) + k * n + first);
            for (long i = 0; i < some; i++) run->log_weights[first + i] = log_weight[i];
        }
        used(run->start);
        keep(0);
    }

    // Log weights with the factors by which particles are preferred before step t, in ``seen``;
    // whether these are numbers.  What is dead has none.
    bool look(long t) {
        bool right = true;
        for (long first = 0; first < n; first += PART) {
            long some = std::min(PART, n - first);
            for (long k = 0; k < coordinates; k++)
                std::copy_n(at(t) + k * n + first, some, &columns[k * some]);
            noise(run->ahead, &columns[coordinates * some], first, some);
            NUMBER *results[] = {log_weight.data()};
            run->ahead.call(some, columns.data(), run->ahead.tables, results, run->ahead.work);
            for (long j = 0, i = first; j < some; j++, i++) {
                ahead[i] = run->log_weights[i] == -INFINITY ? 0 : log_weight[j];
                seen[i] = run->log_weights[i] + ahead[i], right &= std::isfinite(ahead[i]);
            }
        }
        used(run->ahead);
        return right;
    }

    // Weights relative to the largest, in ``ends``; its logarithm
    double weigh(const double *x) {
        D most = D{} - INFINITY;
        I wrong = {};
        for (long i = 0; i < n; i += 8) {
            D each = eight(x, i);
            most = pick(each > most, each, most), wrong |= each != each;
        }
        double largest = most[0];
        for (int l = 1; l < 8; l++) largest = std::max(largest, most[l]);
        if (any(wrong)) return NAN;
        if (!std::isfinite(largest)) return largest;
        for (long i = 0; i < n; i += 8) {
            D weight = wide_exp(eight(x, i) - largest);
            std::memcpy(&ends[i], &weight, sizeof weight);
        }
        return largest;
    }

    // Eight numbers from the i-th on; beyond the last those of none
    D eight(const double *x, long i) {
        D found = D{} - INFINITY;
        if (n - i >= 8) std::memcpy(&found, x + i, sizeof found);
        else std::memcpy(&found, x + i, (n - i) * sizeof(double));
        return found;
    }

    // Equal weights, of a total that is relative to the largest of those before
    void equalise(double most, double total) {
        std::fill_n(run->log_weights, n, most + std::log(total) - std::log((double) n));
    }

    // Draw ancestors for step t, unless the weights are even enough; whether they were drawn
    bool resample(long t) {
        bool looks = run->ahead.call, right = !looks || look(t);
        double most = weigh(looks ? seen.data() : run->log_weights), total = 0, squares = 0;
        if (run->ess < 1) {
            if (!std::isfinite(most)) return false;  // a population that is dead or wrong stays so
            for (long i = 0; i < n; i++) total += ends[i], squares += ends[i] * ends[i];
            if (total * total > run->ess * n * squares) return false;
        }
        if (!right || !std::isfinite(most)) {
            std::fill_n(run->log_weights, n, right ? most : NAN);
            return false;
        }
        total = 0;
        for (long i = 0; i < n; i++) ends[i] = total += ends[i];
        if (run->scheme == MULTINOMIAL) sorted(total);
        else strata(total);
        equalise(most, total);
        for (long i = 0; i < n && looks; i++) run->log_weights[i] -= ahead[chosen[i]];
        return true;
    }

    // Draw ancestors by the first coordinates of a net, from particles in order; whether there were any
    bool resample_by_net(long t) {
        scatter(1 + run->step.points);
        double most = weigh(run->log_weights), total = 0;
        if (!std::isfinite(most)) {
            std::fill_n(run->log_weights, n, most);
            return false;
        }
        neighbours(at(t) + run->before * n, run->carried, n, order);
        std::vector<double> sums(n);
        for (long j = 0; j < n; j++) sums[j] = total += ends[order[j]];
        for (long i = 0, j = 0; j < n; j++) {
            while (i < n - 1 && sums[i] / total < grid[j]) i++;
            chosen[j] = order[i];
        }
        equalise(most, total);
        return true;
    }

    // Point j lies at (j + u_j) / n of the total, for u in (0, 1]
    void strata(double total) {
        bool one = run->scheme == SYSTEMATIC;
        uniforms(one ? 1 : n);
        for (long i = 0; i < n; i++) {  // how many points lie up to the end of cell i
            double scaled = ends[i] / total * n, whole = std::min(std::floor(scaled), n - 1.0);
            double u = 1 - points[one ? 0 : (long) whole];
            ends[i] = whole + (u <= scaled - whole);
        }
        for (long i = 0, j = 0; i < n; i++) {
            long last = (long) ends[i];
            for (int k = 0; k < COPIES; k++) chosen[j + k] = i;  // what is too many, others overwrite
            for (j += COPIES; j < last; j++) chosen[j] = i;
            j = last;
        }
    }

    // Sorted uniforms are the normalised sums of n + 1 exponentials
    void sorted(double total) {
        uniforms(n + 1);
        double sum = 0;
        for (long j = 0; j <= n; j++) points[j] = sum += std::max(-std::log(1 - points[j]), 0x1p-52);
        for (long i = 0, j = 0; j < n; j++) {
            while (i < n - 1 && ends[i] / total < points[j] / sum) i++;
            chosen[j] = i;
        }
    }

    void step(long t) {
        *run->time = t;
        bool resampled = run->digits.all ? resample_by_net(t) : t > 0 && resample(t);
        const NUMBER *now = at(t);
        NUMBER *next = at(t + 1);
        if (run->ancestors) {
            int64_t *kept = run->ancestors + t * n;
            for (long i = 0; i < n; i++) kept[i] = resampled ? chosen[i] : i;
        }
        for (long first = 0; first < n; first += PART) {
            long some = std::min(PART, n - first);
            for (long k = 0; k < coordinates; k++) {
                NUMBER *to = &columns[k * some];
                const NUMBER *from = now + k * n;
                if (k < run->before && !run->moved[k]) std::fill_n(to, some, NUMBER());
                else if (!resampled) std::copy_n(from + first, some, to);
                else for (long i = 0; i < some; i++) to[i] = from[chosen[first + i]];
                if (k < run->before) std::copy_n(to, some, next + k * n + first);
            }
            noise(run->step, &columns[coordinates * some], first, some);
            NUMBER *results[] = {carried.data(), log_weight.data(), outputs.data()};
            run->step.call(some, columns.data(), run->step.tables, results, run->step.work);
            for (long k = 0; k < run->carried; k++)
                std::copy_n(&carried[k * some], some, next + (run->before + k) * n + first);
            for (long k = 0; k < run->outputs && run->history; k++)
                std::copy_n(&outputs[k * some], some, run->history + (t * run->outputs + k) * n + first);
            for (long i = 0; i < some; i++) run->log_weights[first + i] += log_weight[i];
        }
        used(run->step);
        keep(t + 1);
    }

    void forward() {
        start();
        for (long t = 0; t < run->steps; t++) step(t);
        if (at(run->steps) != run->state) std::copy_n(at(run->steps), coordinates * n, run->state);
    }
};

extern "C" void filtered(Run *run) { Filter(run).forward(); }
