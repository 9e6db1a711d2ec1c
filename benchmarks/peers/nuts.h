/* What the sampler and the log densities share. */
#ifndef NUTS_H
#define NUTS_H

/* n data y, columns x of n numbers each, places of the data in groups, and a number. */
typedef struct {
    long n, groups;
    const double *y, *x;
    const int *place;
    double number;
} Data;

/* The log density at u, up to a constant; its gradient goes to g. */
typedef double Density(const double *u, double *g, const Data *data);

#endif
