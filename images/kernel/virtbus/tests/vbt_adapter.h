/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the conformance suite knows about a bus. An adapter-NAME.h has three parts:
 *
 *	#include <linux/the_bus.h>
 *
 *	#define VBT_BUS "virtbus"			the bus's name in sysfs
 *	#define VBT_ALIAS "virtbus:"			what comes before the name in MODALIAS
 *	#define VBT_MATCH(mod, name) mod "." name	what a table of ids holds (literals)
 *	#define vbt_id virtbus_device_id		an entry of it: has name[] and driver_data
 *	#define VBT_DEVICE_TABLE(table) MODULE_DEVICE_TABLE(virtbus, table)	if there is one
 *	#define VBT_CREATOR_WAITS	if a creator must not be unloaded while references are held
 *	struct vbt_bus_dev { struct virtbus_device vdev; };
 *	struct vbt_bus_drv { struct virtbus_driver vdrv; };
 *
 *	#include "vbt_adapter.h"
 *
 *	static const struct vbt_exempt vbt_exempt[] __maybe_unused = { ... { } };
 *	the functions declared below
 *
 * Nothing else of the suite depends on the bus.
 */
#ifndef VBT_ADAPTER_H
#define VBT_ADAPTER_H

#include <linux/device.h>
#include <linux/kernel.h>
#include <linux/module.h>

/*
 * A device of the suite's. What belongs to the bus is not first, so that only container_of() works.
 */
struct vbt_dev {
	unsigned long canary[3];
	struct vbt_bus_dev bus;
	struct device *parent;
	/* Called once, when the last reference is gone; NULL in the test that leaves it out. */
	void (*release)(struct vbt_dev *dev);
	struct list_head node;
	/* The suite's own. */
	unsigned long generation;
	/* The adapter's own. */
	const char *mod;
	void *owner_data;
};

/* A driver of the suite's. */
struct vbt_drv {
	struct vbt_bus_drv bus;
	const char *name;
	const struct vbt_id *ids;
	/* Mandatory, except in the test that leaves it out. */
	int (*probe)(struct vbt_drv *drv, struct vbt_dev *dev, const struct vbt_id *id);
	void (*remove)(struct vbt_drv *drv, struct vbt_dev *dev);
	void (*shutdown)(struct vbt_drv *drv, struct vbt_dev *dev);
	void (*suspend)(struct vbt_drv *drv, struct vbt_dev *dev);
	void (*resume)(struct vbt_drv *drv, struct vbt_dev *dev);
	unsigned long probes, removes;
};

/*
 * A test that is not run on this bus, and why. VBT_SKIP: the requirement is somebody else's there.
 * VBT_CANNOT: the bus has no way to meet it, which is a failure.
 */
struct vbt_exempt {
	const char *id;
	enum { VBT_SKIP, VBT_CANNOT } kind;
	const char *why;
};

/*
 * Devices. ``dev`` is zeroed but for parent and release. ``mod`` is the name of the module in whose
 * name it is made: VBT_MOD, or another to play a second creator.
 *
 * After an error of vbt_dev_init() the suite frees the memory itself. After its success the memory
 * is freed by release, to which vbt_dev_put() leads: after vbt_dev_del(), after a failed
 * vbt_dev_add(), or without any vbt_dev_add(). A bus that has one step for two does both in one of
 * them and nothing in the other.
 */
static inline int vbt_dev_init(struct vbt_dev *dev, const char *mod, const char *name);
static inline int vbt_dev_add(struct vbt_dev *dev);
static inline void vbt_dev_del(struct vbt_dev *dev);
static inline void vbt_dev_put(struct vbt_dev *dev);

/* The struct device within, and back. */
static inline struct device *vbt_device(struct vbt_dev *dev);
static inline struct vbt_dev *vbt_from_device(struct device *device);

/*
 * What of a device belongs to the bus, without the struct device. A match must leave it as it is.
 */
static inline void *vbt_dev_private(struct vbt_dev *dev, size_t *size);

/*
 * Where a driver finds the entry that its device was matched with, after probe: as a rule what
 * probe was given, ``seen``.
 */
static inline const struct vbt_id *vbt_bound_id(struct vbt_dev *dev, const struct vbt_id *seen);

/*
 * Drivers. Name, ids and callbacks are set; a callback that is NULL must be NULL for the bus too.
 */
static inline int vbt_drv_register(struct vbt_drv *drv);
static inline void vbt_drv_unregister(struct vbt_drv *drv);

/* The struct device_driver within, and back. */
static inline struct device_driver *vbt_driver(struct vbt_drv *drv);
static inline struct vbt_drv *vbt_from_driver(struct device_driver *driver);

/* The name of this module, as a literal, and its entry in a table of ids. */
#define VBT_MOD KBUILD_MODNAME

/* Power management of a driver whose bus calls dev_pm_ops. */
static inline int vbt_pm_suspend(struct device *device)
{
	struct vbt_drv *drv = vbt_from_driver(device->driver);

	if (drv->suspend)
		drv->suspend(drv, vbt_from_device(device));
	return 0;
}

static inline int vbt_pm_resume(struct device *device)
{
	struct vbt_drv *drv = vbt_from_driver(device->driver);

	if (drv->resume)
		drv->resume(drv, vbt_from_device(device));
	return 0;
}

static const struct dev_pm_ops vbt_pm_ops __maybe_unused = {
	SYSTEM_SLEEP_PM_OPS(vbt_pm_suspend, vbt_pm_resume)
};

#endif /* VBT_ADAPTER_H */
