// Paths drawn backward through the particles that a filter kept: see ``backward.py``, one folder up,
// which defines them.  Given the choices of a run there, it draws the same paths.

struct Back {  // in the order of paths.py
    Code code;  // u [before + carried] of particles -> log density, whether astray, outputs
    long draws;                      // paths
    long outputs, choices;           // numbers of a step, in this order in ``Run::history``
    NUMBER *made, *reached, *began;  // of one path, which the tables of the code hold: the choices of
                                     // a step, the carry after it, and what was before the scan
    NUMBER *first, *last;            // [before][draws] and [carried][draws] of whole paths
    NUMBER *found;                   // [steps][outputs][draws]
    int64_t *astray;                 // [steps]: whether choices led from a particle to another carry
    double *spoilt;                  // [draws]: NaN where a weight was none, else 0
};

struct Backward : Filter {
    Back *back;
    std::vector<NUMBER> made, reached, began, density, differs, given;
    std::vector<double> weighed;

    Backward(Run *run, Back *back) : Filter(run), back(back) {
        made.resize(back->draws * back->choices), reached.resize(back->draws * run->carried);
        began.resize(back->draws * run->before), density.resize(n), differs.resize(n);
        given.resize(back->outputs * n), weighed.resize(n);
        points.resize(std::max(back->draws, n + 1));
    }

    // A particle in proportion to its weight: that of the first sum beyond u times the total
    long collapse(const double *log_weights, double u, double *spoilt) {
        double most = weigh(log_weights), total = 0;
        if (std::isnan(most) || most == INFINITY) *spoilt = NAN;
        if (!std::isfinite(most)) std::fill_n(ends.begin(), n, 1.0);
        for (long i = 0; i < n; i++) ends[i] = total += ends[i];
        long i = std::upper_bound(ends.begin(), ends.begin() + n, u * total) - ends.begin();
        if (i < n) return i;
        return std::lower_bound(ends.begin(), ends.begin() + n, total) - ends.begin();
    }

    // What path d goes on from is particle i before step t
    void move(long d, long i, long t) {
        const NUMBER *from = at(t);
        for (long k = 0; k < run->before; k++) began[d * run->before + k] = from[k * n + i];
        from += run->before * n;
        for (long k = 0; k < run->carried; k++) reached[d * run->carried + k] = from[k * n + i];
        if (t == 0) return;
        const NUMBER *chosen = run->history + ((t - 1) * run->outputs + back->outputs) * n;
        for (long k = 0; k < back->choices; k++) made[d * back->choices + k] = chosen[k * n + i];
    }

    void end() {
        uniforms(back->draws);
        for (long d = 0; d < back->draws; d++) {
            back->spoilt[d] = 0;
            move(d, collapse(run->log_weights, points[d], &back->spoilt[d]), run->steps);
            for (long k = 0; k < run->carried; k++)
                back->last[k * back->draws + d] = reached[d * run->carried + k];
        }
    }

    // From which particles paths go on by step t
    void step_back(long t) {
        *run->time = t;
        uniforms(back->draws);
        const double *before = run->weights + t * n;
        std::vector<NUMBER *> results = {density.data(), differs.data(), given.data()};
        for (long d = 0; d < back->draws; d++) {
            std::copy_n(&made[d * back->choices], back->choices, back->made);
            std::copy_n(&reached[d * run->carried], run->carried, back->reached);
            std::copy_n(&began[d * run->before], run->before, back->began);
            back->code.call(n, at(t), back->code.tables, results.data(), back->code.work);
            bool astray = false;
            for (long j = 0; j < n; j++) {
                weighed[j] = before[j] + density[j];
                astray |= differs[j] != 0 && weighed[j] > -INFINITY;
            }
            if (astray) back->astray[t] = 1;
            long i = collapse(weighed.data(), points[d], &back->spoilt[d]);
            for (long k = 0; k < back->outputs; k++)
                back->found[(t * back->outputs + k) * back->draws + d] = given[k * n + i];
            move(d, i, t);
        }
    }

    void all() {
        forward();
        end();
        for (long t = run->steps - 1; t >= 0; t--) step_back(t);
        for (long d = 0; d < back->draws; d++)
            for (long k = 0; k < run->before; k++)
                back->first[k * back->draws + d] = began[d * run->before + k];
    }
};

extern "C" void smoothed(Run *run, Back *back) { Backward(run, back).all(); }
