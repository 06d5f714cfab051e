/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A bus of the shape that the proposal of November 2019 had in its second version: the bus
 * allocates the device, a pointer leads to the creator's data, and a number counts all devices of
 * the bus. It is here to be found wanting, so it has the faults that the review found, and nothing
 * of its code.
 */
#ifndef VBT_V2SHAPE_H
#define VBT_V2SHAPE_H

#include <linux/device.h>
#include <linux/mod_devicetable.h>
#include <linux/module.h>
#include <linux/pm.h>

struct v2_id {
	char name[20];
	kernel_ulong_t driver_data;
};

struct v2_device {
	const char *name;
	int id;
	const struct v2_id *matched;
	void *data;
	struct device dev;
};

struct v2_driver {
	int (*probe)(struct v2_device *vdev);
	int (*remove)(struct v2_device *vdev);
	void (*shutdown)(struct v2_device *vdev);
	int (*suspend)(struct v2_device *vdev, pm_message_t state);
	int (*resume)(struct v2_device *vdev);
	const struct v2_id *id_table;
	struct device_driver driver;
};

struct v2_device *v2_device_alloc(const char *name, void *data);
int v2_device_register(struct v2_device *vdev);
void v2_device_unregister(struct v2_device *vdev);

int __v2_driver_register(struct v2_driver *vdrv, struct module *owner);
void v2_driver_unregister(struct v2_driver *vdrv);

#define v2_driver_register(vdrv) __v2_driver_register(vdrv, THIS_MODULE)

#endif /* VBT_V2SHAPE_H */
